"""Measurements on one GPU in two halves of at most five minutes each: `python -m benchmarks.on_gpu`."""
