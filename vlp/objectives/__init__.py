"""What a batch should look like: one file per term."""
