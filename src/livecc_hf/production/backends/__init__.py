"""What stages work with: endpoints of language models, and sound."""
