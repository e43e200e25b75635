"""Events: what a long command tells while it runs, as mappings with the key `event`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Tell = Callable[[Mapping[str, Any]], None]
"""Called with each event: `waiting`, `data`, `encode`, `encoded`, `start`, `step`, `evaluation`, `trained`."""
