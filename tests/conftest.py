"""What every test file shares: reproducible property tests and the folder of real data."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Workers beside each other would fight for the processors with torch's threads, and so would what they start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that puts tests in the background has them ignore Ctrl-C, and so would the commands that they start and stop.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Reproducible everywhere, and never failing because a machine is busy.
settings.register_profile(
    "igsearch",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("igsearch")


@pytest.fixture(scope="session")
def mini_data() -> Path:
    """The folder of 40 real questions a benchmark and 5,000 real passages; skips where it is absent."""
    folder = Path(__file__).parent.parent.parent / "shared" / "data" / "mini"
    if not folder.is_dir():
        pytest.skip("real data is not here: ../shared/data/mini is no folder")
    return folder
