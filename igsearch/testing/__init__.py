"""For the tests of your own retrievers and algorithms; the tests of this project use it, too. Needs pytest."""

import pytest

pytest.register_assert_rewrite("igsearch.testing.retriever_contract")  # so that a failure shows the values
