"""CUDA sources, installed as the package gpubp.kernels."""
