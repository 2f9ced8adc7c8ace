"""Towers: pixels or tokens to embeddings, from open_clip, timm and transformers."""
