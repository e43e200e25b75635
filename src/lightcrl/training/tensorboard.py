"""TensorBoard as a tracker: Accelerate's, without a flush after every step and with the recipe as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from accelerate.tracking import TensorBoardTracker, on_main_process


class TensorBoard(TensorBoardTracker):  # type: ignore[misc]
    """Scalars and texts in `<logging_dir>/<run_name>`; the writer flushes every two minutes and at the end."""

    name = "tensorboard"
    requires_logging_directory = True

    @on_main_process  # type: ignore[untyped-decorator]
    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Write the configuration as a text; hyperparameters would get a folder of their own."""
        self.writer.add_text("configuration", f"```json\n{json.dumps(dict(values), indent=1)}\n```")

    @on_main_process  # type: ignore[untyped-decorator]
    def log(self, values: Mapping[str, Any], step: int | None = None, **settings: Any) -> None:
        """Write numbers as scalars, and texts as texts."""
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self.writer.add_scalar(name, value, global_step=step, **settings)
            else:
                self.writer.add_text(name, str(value), global_step=step, **settings)
