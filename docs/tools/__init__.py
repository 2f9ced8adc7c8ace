"""What makes parts of the pages: `make pages`."""
