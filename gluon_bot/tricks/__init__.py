"""Sections 3 and 5 of the paper, a file a trick."""
