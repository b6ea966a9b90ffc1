"""What a model says of the small made-up world, where what happens is known."""
