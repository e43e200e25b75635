"""Which files pytest collects."""

from __future__ import annotations

from pathlib import Path


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave modules of the library without examples alone: each worker would import them all for nothing."""
    inside = Path(__file__).parent / "src" in collection_path.parents and collection_path.suffix == ".py"
    return True if inside and ">>> " not in collection_path.read_text(encoding="utf-8") else None
