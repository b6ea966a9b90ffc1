"""Ask language models over HTTP: requests with retries, failure counts, and a cache of answers."""
