"""Ways to put a new modality beside old ones, compared: the extension, plain maps, and training everything anew."""

from __future__ import annotations

from lightcrl.studies.extensions.run import compare_extensions
from lightcrl.studies.extensions.scene import RIVALS

__all__ = ["RIVALS", "compare_extensions"]
