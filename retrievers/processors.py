"""How the threads of numerical libraries wait for each other. Imports nothing large: it must run before torch does."""

from __future__ import annotations

import os


def let_waiting_threads_sleep() -> None:
    """Let OpenMP's threads (torch, faiss, MKL) sleep while they wait for each other, unless the user chose otherwise.

    By default they spin. Beside other processes a thread then burns its share of a processor while the thread that it
    waits for has none. The libraries read the setting once, when they are loaded: call this before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
