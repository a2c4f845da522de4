"""The networks of Section 4 and of the tables, their parameters in our format and in others."""
