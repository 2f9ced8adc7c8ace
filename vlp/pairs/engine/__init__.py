"""Streamed statistics of similarity matrices: what stands behind `vlp.pairs`."""
