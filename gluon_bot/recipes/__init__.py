"""Every run of the paper by name, and the numbers of its tables."""
