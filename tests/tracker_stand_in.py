"""A tracker as a user may write it, by Accelerate's interface: lines of JSON in a file beside the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker


class Recorder(GeneralTracker):
    name = "recorder"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: str, run_id: str, resume: bool) -> None:
        super().__init__()
        self.path = Path(logging_dir) / "recorded.jsonl"
        self.first = {"start": run_name, "id": run_id, "resume": resume}

    def start(self) -> None:
        self.write(self.first)

    @property
    def tracker(self) -> Path:
        return self.path

    def write(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.write({"configuration": values})

    def log(self, values: dict[str, Any], step: int | None = None, **settings: Any) -> None:
        self.write({"values": values, "step": step})

    def log_artifact(self, path: str) -> None:
        self.write({"file": Path(path).name})

    def finish(self) -> None:
        self.write({"finish": True})


class Broken(Recorder):
    def start(self) -> None:
        raise RuntimeError("no server\nat all")


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "recorded.jsonl").read_text(encoding="utf-8").splitlines()]
