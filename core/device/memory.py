"""What a device computes in, and what happens when it is out of memory."""

from __future__ import annotations

import gc

import torch

from core.config.schema import Config

SIGNS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def autocast(config: Config) -> torch.autocast:
    """bfloat16 arithmetic of the encoder where the configuration asks for it.

    Cast weights are not kept: each is used once, and a recorded step must cast them anew.
    """
    enabled = config.precision == "bfloat16"
    return torch.autocast(config.device, torch.bfloat16, enabled, cache_enabled=False)


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
