"""What has no subject of its own: helpers that several rooms use."""
