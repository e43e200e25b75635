"""Capabilities and settings of the machine."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Constants of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# Larger blocks (whole feature stores, not a batch's tensors) are returned to the system as soon as they are free.
LARGEST = 1 << 27
KEPT = 1 << 30


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Return true if `device` multiplies matrices in bfloat16 natively, not by conversion to float32."""
    import torch  # the command line imports this module before anything heavy is there

    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("arm_bf16"))


def multiplies_int8() -> bool:
    """Return true if torch multiplies matrices of 8-bit integers on this processor by its own instructions (VNNI)."""
    import torch

    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_vnni") and torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def seed_draws(seed: int) -> None:
    """Seed the default generators of torch on all devices.

    `torch.manual_seed` formats the call stack for devices that are not in use, in every step of a training; without any
    device but the CPU its generator is the only one.
    """
    import torch

    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def keep_freed_memory() -> None:
    """Let the process keep and reuse up to `KEPT` bytes of freed memory, in blocks of up to `LARGEST` bytes.

    The C library of Linux gives every large tensor fresh pages and returns them a moment later; touching fresh pages
    costs up to half of a forward pass (docs/LOG.md). On other systems this does nothing. Only the command line calls
    it: a process that uses the library decides about its own memory.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_MMAP_THRESHOLD, LARGEST)
        library.mallopt(_TRIM_THRESHOLD, KEPT)


def physical_memory() -> float:
    """Return the machine's memory in bytes; infinite if the system does not provide it."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return float("inf")


def release_memory() -> None:
    """Return freed memory to the system, where the C library (glibc) would keep it: worth it before hours of work."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
