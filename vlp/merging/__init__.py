"""Make one model of several: averages, soups, and the best point between two."""
