"""What the machine at hand does well, and what it has to be told once."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# Larger blocks (whole feature stores, not a batch's tensors) are given back as soon as they are free.
LARGEST = 1 << 27
KEPT = 1 << 30


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether `device` multiplies matrices in bfloat16 itself, not by way of float32."""
    import torch  # the command line asks this module for memory before anything heavy is there

    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("arm_bf16"))


def keep_freed_memory() -> None:
    """Let the process keep up to `KEPT` bytes of what it has freed, in blocks up to `LARGEST`, and use them again.

    The C library of Linux gives every large tensor fresh pages and hands them back a moment later; touching fresh pages
    costs up to half of a forward pass (docs/LOG.md). Elsewhere this does nothing. Only the command line calls it: how a
    process that uses the library keeps its memory is that process's own affair.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_MMAP_THRESHOLD, LARGEST)
        library.mallopt(_TRIM_THRESHOLD, KEPT)


def physical_memory() -> float:
    """Bytes of memory that the machine has; infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return float("inf")
