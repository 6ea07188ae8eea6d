"""A device that is out of memory: told from other errors, and relieved."""

from __future__ import annotations

import gc

import torch

SIGNS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether it is, or comes from, a GPU's lack of memory.

    The end of a recording that broke off raises an error of its own.
    """
    if error is None:
        return False
    own = isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS)
    return own or is_out_of_memory(error.__cause__ or error.__context__)


def release() -> None:
    """Give back to the device what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
