"""From bytes to pixels, and what is changed on them."""
