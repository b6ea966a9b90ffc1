"""Fine-tuning with TRL: data, batches, optimizer and the script behind `livecc train`."""
