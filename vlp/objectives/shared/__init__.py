"""What several terms are made of."""
