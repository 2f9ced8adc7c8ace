"""A run: what it is assembled from, its folder, its checkpoints, its log, its clock."""
