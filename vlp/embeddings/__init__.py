"""Embeddings of data sets on a disk: written by many processes, read by search, filters and probes."""
