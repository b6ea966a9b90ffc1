"""Language models behind an HTTP endpoint: questions, failures, and answers that are kept."""
