"""Data: built-in sets, splitting, batches, and what a user may give as an array."""
