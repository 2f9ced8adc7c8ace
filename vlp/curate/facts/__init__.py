"""What is known of a data set, gathered sample by sample."""
