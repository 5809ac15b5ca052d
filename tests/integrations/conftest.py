"""Questions that the tests of all adapters play."""

from __future__ import annotations

import pytest

from igsearch_env.questions import Question
from igsearch_env.world.bundled import bundled_world


@pytest.fixture(scope="session")
def questions() -> list[Question]:
    """Five questions of the bundled world, of one and of two hops."""
    return list(bundled_world().questions["train"][::250])
