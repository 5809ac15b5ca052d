"""Imported first by scripts that `vllm_interpreter.py` runs: packages of the tests' environment come last.

vLLM 0.32 on a CPU looks for its kernels among the attributes of everything that modules hold when it starts. It fails
at an object of llvmlite that invents any attribute, so it would not start after numba (of bm25s) has been imported.
"""

import os
import sys
from typing import Any

from llvmlite.binding import ffi

sys.path.append(os.environ["IGSEARCH_TEST_PACKAGES"])
_invented = ffi._lib_wrapper.__getattr__


def _ordinary(self: Any, name: str) -> Any:
    if name == "__dict__":
        raise AttributeError(name)
    return _invented(self, name)


ffi._lib_wrapper.__getattr__ = _ordinary
