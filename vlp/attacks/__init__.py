"""What an attack is made of: a ball around an input, signed steps uphill in it, a start that can be repeated."""
