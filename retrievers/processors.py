"""How the threads of numerical libraries wait for each other. Imports nothing large: it must run before torch does."""

from __future__ import annotations

import os


def let_waiting_threads_sleep() -> None:
    """Let OpenMP's threads (torch, faiss, MKL) sleep while they wait for each other, unless the user chose otherwise.

    By default they spin. Beside other processes a thread then burns its share of a processor while the thread that it
    waits for has none. GNU's OpenMP, which torch uses on Linux, spins for a few microseconds first: about as long as
    putting a thread to sleep takes. The libraries read the settings once, when they are loaded: call this before torch
    is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
