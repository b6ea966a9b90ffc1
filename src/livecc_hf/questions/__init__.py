"""Questions about a video or an image that is seen whole."""
