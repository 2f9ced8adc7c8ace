"""How much of what a model can do is left when somebody tries to fool it, and whether that number can be believed."""
