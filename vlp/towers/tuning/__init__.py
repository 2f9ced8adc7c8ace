"""What of a pretrained model trains: one file for each way."""
