"""Fine-tuning with TRL: data, batches, optimizer and the script behind `livecc train`."""

from livecc_hf.utils.quiet import quiet_missing_kernels

quiet_missing_kernels()  # before any module of this folder imports peft
