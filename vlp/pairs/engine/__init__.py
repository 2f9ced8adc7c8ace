"""Streamed statistics of similarity matrices: what stands behind `vlp.pairs`.

From a question to a number, and back to a gradient:

1. `walk.pair_stats` makes a `Matrix` of every block: this process's `Rectangle` of it and the `Statistic`s that answer.
2. A path walks the rectangle: `TwoWalks`, `KeptExponentials` and `EarlyGradients` tile by tile (`tile_paths`),
   `FusedWalk` in Triton's kernels (`fused`). Every `Tile` is added to every statistic. Several widths of the same
   embeddings share a walk: `FusedWalk`, and among tiles `NestedWalk`, where little of it can be kept.
3. `answers` says which of the sums are this process's, and at the way back gathers what the path needs of the others'.
"""
