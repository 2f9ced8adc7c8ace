"""What every room may know: types, files, processes, random numbers; it knows none of them."""
