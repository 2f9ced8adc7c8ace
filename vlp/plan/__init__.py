"""What a recipe will need and how fast it can be, before anything is launched."""
