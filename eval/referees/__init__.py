"""Other programs that compute what the evaluators compute, asked for the same numbers."""
