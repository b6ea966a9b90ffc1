"""Publishing on the Hub: what of a folder is sent, what is checked before it and after it."""
