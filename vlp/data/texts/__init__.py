"""Which words go with an image, and how they are changed."""
