"""Collection of tests and examples, of `tests` and `src` alike."""

from __future__ import annotations

from pathlib import Path


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Collect no module without tests or examples: to look for them, pytest imports it and all that it builds on."""
    name = collection_path.name
    if not name.endswith(".py") or name.startswith("test_") or ">>>" in collection_path.read_text(encoding="utf-8"):
        return None
    return True
