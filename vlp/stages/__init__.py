"""Training in stages, each of which learns what those before it have not."""
