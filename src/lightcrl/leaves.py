"""Tensors on disk, described leaf by leaf: the files of checkpoints and of heads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lightcrl.errors import CheckpointError


def describe(tensor: Tensor) -> dict[str, Any]:
    """Return shape, dtype and digest of a tensor, as JSON values."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "digest": hashlib.blake2b(data.tobytes(), digest_size=16).hexdigest(),
    }


def take_sizes(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a module's buffers of variable shape, which its parts name in `sized`, the shapes of saved tensors."""
    for prefix, part in module.named_modules():
        for name in getattr(part, "sized", ()):
            leaf = f"{prefix}.{name}" if prefix else name
            if leaf in tensors:
                setattr(part, name, torch.zeros_like(tensors[leaf], device=getattr(part, name).device))


def read_tensors(path: Path, expected: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """Read a file of tensors, and compare each with its description.

    Raises:
        CheckpointError: the file is missing or torn, or a leaf is not as described.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing or torn ({error}).") from None
    for leaf in sorted(set(expected) | set(tensors)):
        present = describe(tensors[leaf]) if leaf in tensors else "nothing"
        wanted = expected.get(leaf, "nothing")
        if present != wanted:
            raise CheckpointError(f"{path}: leaf {leaf!r} is {present}, expected {wanted}.")
    return tensors
