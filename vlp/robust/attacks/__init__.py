"""Ways to fool a model, one file each."""
