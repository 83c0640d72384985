"""Data: built-in sets, files, preprocessing, splitting, batches, and what a user may give as an array."""

from gpubp.data.datasets import Dataset, load_dataset
from gpubp.data.preprocessing import Preprocessing

__all__ = ["Dataset", "Preprocessing", "load_dataset"]
