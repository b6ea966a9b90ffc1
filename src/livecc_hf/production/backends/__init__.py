"""Code that several stages share: decoding the sound of a video."""
