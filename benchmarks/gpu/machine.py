"""What the machine is: versions, optional libraries, rates, and the kernels that torch chooses."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from algorithms.common.model.kv_cache import KVCache
from algorithms.common.model.kv_spans import Span
from algorithms.common.model.packing import Block, pack, pack_slots
from benchmarks.gpu.sizes import Report, Sizes

PACKAGES = ("torch", "transformers", "triton", "flash-attn", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "vllm")
ATTENTION = ("attention", "flash", "fmha", "sdpa")  # parts of names of its kernels


def versions(sizes: Sizes, report: Report) -> None:
    """Versions of packages, the card, rates of the shape's products, and kernels of packed passes."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    report({"python": platform.python_version(), **found, "varlen": has_varlen()})
    if sizes.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        report(
            {
                "card": card.name,
                "GB": card.total_memory / 1e9,
                "multiprocessors": card.multi_processor_count,
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
                "cudnn attention": torch.backends.cuda.cudnn_sdp_enabled(),  # type: ignore[no-untyped-call]
                "flash attention": torch.backends.cuda.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
            }
        )
    policy = sizes.policy(min(2, sizes.layers))
    rates = sizes.rates(policy)
    report(
        {
            "TFLOP/s by rows": {rows: round(rate / 1e12, 3) for rows, rate in rates.products},
            "attention TFLOP/s": rates.attention / 1e12,
            "GB/s": rates.bandwidth / 1e9,
        }
    )
    store = KVCache()
    spans = [Span(512 * n, 512) for n in range(8)]
    store.reserve(8 * 512)
    blocks = [Block([300] * 200, 0, span.start) for span in spans]
    branches = [Block([300] * 60, 200, span.start) for span in spans]
    with torch.no_grad():
        for name, packed in (
            ("prefill", pack(blocks, policy.device, store=store, keep=True)),
            ("branches", pack(branches, policy.device, store=store)),
            ("decode", pack_slots([300] * 8, spans, [200] * 8, policy.device, store=store)),
        ):
            with torch.profiler.profile() as seen:
                policy.forward_packed(packed)
            spent = sorted(seen.key_averages(), key=lambda event: -_time(event))
            chosen = [e for n, e in enumerate(spent) if n < 6 or any(word in e.key.lower() for word in ATTENTION)]
            report({"kernels of": name, "names": [f"{event.key[:70]} x {event.count}" for event in chosen]})


def has_varlen() -> bool:
    """Whether this torch has attention over sequences of any lengths."""
    return find_spec("torch.nn.attention.varlen") is not None


def _time(event: object) -> float:
    return float(getattr(event, "self_device_time_total", 0) or getattr(event, "self_cpu_time_total", 0))
