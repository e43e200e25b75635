from __future__ import annotations

from pathlib import Path

import pytest

from lightcrl.encoders.files import quiet


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data and encoders beside the project."""
    folder = Path(__file__).parents[3] / "shared"
    if not (folder / "models").is_dir():
        pytest.skip(f"{folder} is not there: it holds the real data and encoders")
    return folder


@pytest.fixture
def reference():
    """A model in float64, as its own library loads it."""

    def load(folder: Path, kind: str = "AutoModel"):
        import torch
        import transformers

        with quiet():
            return getattr(transformers, kind).from_pretrained(folder, dtype=torch.float64).eval()

    return load
