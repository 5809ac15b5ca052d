"""Imported first by scripts that `vllm_interpreter.py` runs: packages of the tests' environment come last."""

import os
import sys

sys.path.append(os.environ["IGSEARCH_TEST_PACKAGES"])
