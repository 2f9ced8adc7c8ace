"""Processes that decode, and the memory they share with the one that trains."""
