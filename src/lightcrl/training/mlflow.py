"""MLflow as a tracker: Accelerate's, with names that MLflow accepts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from accelerate.tracking import MLflowTracker

FOREIGN = re.compile(r"[^\w\-. :/]")


def accepted(name: str) -> str:
    """Return a name of letters, digits and `_-. :/` alone.

    >>> accepted("retrieval/mean_recall@1")
    'retrieval/mean_recall_at_1'
    """
    return FOREIGN.sub("_", name.replace("@", "_at_"))


class MLflow(MLflowTracker):  # type: ignore[misc]
    """Values and settings under names that MLflow accepts: `recall_at_1` for `recall@1`."""

    name = "mlflow"

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Log the configuration as parameters."""
        super().store_init_configuration({accepted(name): value for name, value in values.items()})

    def log(self, values: Mapping[str, Any], step: int | None = None, **settings: Any) -> None:
        """Log numbers as metrics."""
        super().log({accepted(name): value for name, value in values.items()}, step=step, **settings)
