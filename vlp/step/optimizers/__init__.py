"""Optimizers by name, each built by the library that keeps it."""
