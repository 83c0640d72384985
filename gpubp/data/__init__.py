"""Data: built-in sets, splitting, batches, and what a user may give as an array."""

from gpubp.data.datasets import Dataset, load_dataset

__all__ = ["Dataset", "load_dataset"]
