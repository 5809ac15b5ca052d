"""What this machine can do at most: rates of matrix products of a model's shapes, and of its memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.step_costs import ModelShape, Rates

Clock = Callable[[], float]

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1_024, 2_048)  # of the products that are measured
ENOUGH = {"cpu": 2e11, "cuda": 1e13}  # operations of one timing, at most: of a large model, some layers are measured
WEIGHTS = 2**28  # numbers in the weights of a timing of few rows, at most: more than a cache holds
QUERIES, COLUMNS, SEQUENCES = 64, 256, 32  # of attention


def machine_rates(
    shape: ModelShape, device: str = "cpu", dtype: torch.dtype = torch.float32, clock: Clock = time.perf_counter
) -> Rates:
    """Measured rates for the products of a shape, each the best of several timings by `clock`."""
    products = tuple((rows, product_rate(shape, rows, device, dtype, clock)) for rows in ROWS)
    return Rates(products, attention_rate(shape, device, dtype, clock), memory_bandwidth(device, clock))


def product_rate(shape: ModelShape, rows: int, device: str, dtype: torch.dtype, clock: Clock) -> float:
    """Operations per second of the products of layers with `rows` rows; every layer has weights of its own."""
    each = shape.layer_weights // shape.layers
    layers = max(1, min(shape.layers, int(ENOUGH[device] / (2 * each * rows)), WEIGHTS // each))
    weights = [torch.randn(*sizes, device=device, dtype=dtype) for _ in range(layers) for sizes in shape.matrices]
    inputs = {n: torch.randn(rows, n, device=device, dtype=dtype) for _, n in shape.matrices}

    def run() -> None:
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    return 2 * each * layers * rows / best_seconds(run, device, clock)


def attention_rate(shape: ModelShape, device: str, dtype: torch.dtype, clock: Clock) -> float:
    """Operations per second of the two products of attention alone, in batches of short sequences."""
    heads, d = SEQUENCES * shape.heads, shape.head_dim
    q = torch.randn(heads, QUERIES, d, device=device, dtype=dtype)
    k, v = torch.randn(2, heads, COLUMNS, d, device=device, dtype=dtype)
    taken = best_seconds(lambda: q @ k.transpose(1, 2) @ v, device, clock)
    return 4 * heads * QUERIES * COLUMNS * d / taken


def memory_bandwidth(device: str, clock: Clock = time.perf_counter) -> float:
    """Bytes per second, read and written, when copying a large tensor."""
    source = torch.zeros(2**30 if device == "cuda" else 2**27, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * source.numel() / best_seconds(lambda: target.copy_(source), device, clock)


def best_seconds(run: Callable[[], object], device: str, clock: Clock = time.perf_counter, most: int = 200) -> float:
    """The shortest of several calls, after one that warms up: they take 0.3 seconds together, or are `most`."""
    best, begun = float("inf"), time.perf_counter()
    for number in range(most):
        synchronize(device)
        start = clock()
        run()
        synchronize(device)
        if number:
            best = min(best, clock() - start)
            if time.perf_counter() - begun > 0.3 and number >= 3:
                break
    return best


def synchronize(device: str) -> None:
    """Wait for the GPU, if `device` is one."""
    if device == "cuda":
        torch.cuda.synchronize()
