"""log.jsonl, with a line for each step and evaluation, and the same values for trackers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightcrl.events import Tell
from lightcrl.files.local import clear_errors, whole_file

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker


class Log:
    """log.jsonl, cut back to the point of resumption, and trackers."""

    def __init__(
        self, folder: Path, step: int, report: Tell, trackers: Sequence[GeneralTracker] = (), *, active: bool = True
    ) -> None:
        """Open the log; an inactive log writes nothing. The trackers have been started, and end with the log."""
        self._active = active
        if not active:
            return
        self._path = path = folder / "log.jsonl"
        kept = [line for line in _lines(path) if _happened(json.loads(line), step)] if step and path.exists() else []
        with whole_file(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
        self._stream = path.open("a", encoding="utf-8")
        self._trackers = trackers
        self._report = report

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._active:
            return
        self._stream.close()
        for tracker in self._trackers:
            tracker.finish()

    def write(self, event: Mapping[str, Any]) -> None:
        """Write an event."""
        if not self._active:
            return
        with clear_errors(self._path):
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()
        values = {name: value for name, value in event.items() if isinstance(value, float)}
        for tracker in self._trackers:
            if values:
                tracker.log(values, step=event["step"])
        self._report(event)


def _lines(path: Path) -> Iterator[str]:
    """Yield complete lines: a killed run may leave an incomplete line."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if line.endswith("\n"):
                yield line


def _happened(event: Mapping[str, Any], step: int) -> bool:
    """True if an event lies before the step at which the run resumes."""
    at: int = event.get("step", -1)
    return at < step or (at == step and event["event"] == "evaluation")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a run's log.jsonl."""
    return [json.loads(line) for line in _lines(folder / "log.jsonl")]
