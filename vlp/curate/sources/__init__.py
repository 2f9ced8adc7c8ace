"""Where pairs that are no shards yet come from, and the shards they are written to."""
