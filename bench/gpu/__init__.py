"""What gpubp does on a CUDA machine, by one command: python3 -m bench.gpu. Described in docs/gpu.md."""
