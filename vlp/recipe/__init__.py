"""Recipes: their schema, the layers they are made of, how they are loaded, what can be looked up."""
