"""Whether this machine can compile an encoder's pass. Imports no torch: keys depend on it."""

from __future__ import annotations

import functools
import os
import shutil


@functools.cache
def has_compiler() -> bool:
    """Whether there is the C++ compiler that torch.compile needs."""
    return bool(os.environ.get("CXX") or any(map(shutil.which, ("g++", "clang++", "c++"))))
