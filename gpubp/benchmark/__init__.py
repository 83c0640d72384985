"""The benchmark: gpubp and its peers at the same training step, checked, in turns, each in a process of its own.

No module of this package loads NumPy when it is imported: a process that is to time something sets its threads first.
"""
