"""Data sets made from packages that users already have."""
