"""The console, and the progress of a long command on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lightcrl import events

console = Console()


class Live:
    """Turns the events of a run into progress bars and lines."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            refresh_per_second=4,
            # Bars are noise in a file or a pipe; lines stay.
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._steps = 0
        self._recall = ""
        self._shown: Mapping[str, Callable[[Any], None] | None] = {
            "waiting": self._on_waiting,
            "data": self._on_data,
            "added": self._on_added,
            "encode": self._on_encode,
            "encoded": self._on_encoded,
            "states": self._on_states,
            "select": None,
            "start": self._on_start,
            "step": self._on_step,
            "evaluation": self._on_evaluation,
            "hubs": self._on_hubs,
            "trained": self._on_trained,
        }

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Show one event; see `lightcrl.events`."""
        show: Callable[[Any], None] | None = self._shown.get(event["event"])
        if show is not None:
            show(event)

    def _bar(self, name: str, total: int | None) -> TaskID:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note="")
        return self._tasks[name]

    def _on_waiting(self, event: events.Waiting) -> None:
        self._progress.print(
            f"{event['folder']}: waiting for {event['holder']}, which writes it", markup=False, soft_wrap=True
        )

    def _on_data(self, event: events.Data) -> None:
        groups = ", ".join(f"{count:,} {split}" for split, count in event["groups"].items())
        aside = f"; set aside: {event['rejected']:,}" if event["rejected"] else ""
        self._progress.print(f"data: {groups} groups{aside}")

    def _on_added(self, event: events.Added) -> None:
        done = event["added"] + event["replaced"] + event["present"]
        self._progress.update(self._bar("items", None), completed=done)

    def _on_encode(self, event: events.Encode) -> None:
        self._progress.update(self._bar(f"encode {event['modality']}", event["total"]), completed=event["done"])

    def _on_encoded(self, event: events.Encoded) -> None:
        bar = self._tasks.pop(f"encode {event['modality']}", None)
        if bar is not None:
            self._progress.remove_task(bar)
        reused = event["copied"] + event["kept"]
        work = f"encoded {event['encoded']:,}" if event["encoded"] else "encoded nothing"
        aside = "".join(f", set aside {count:,} ({reason})" for reason, count in event["rejected"].items())
        aside += f", cut {event['cut']:,} at max_length" if event["cut"] else ""
        self._progress.print(
            f"{event['modality']}: {event['items']:,} items, {work}, {reused:,} were there already{aside}; "
            f"{event['bytes'] / 2**20:.1f} MiB"
        )

    def _on_states(self, event: events.States) -> None:
        what = f"{event['modality']}: [tuning.{event['modality']}] "
        size = f"{event['bytes'] / 2**20:,.1f} MiB, {event['bytes'] / max(1, event['items']) / 1024:.1f} KiB an item"
        stored = f"trains on stored states of its frozen blocks: about {size}"
        whole = f"runs the whole encoder at every step: {event['reason']}"
        self._progress.print(what + (whole if event["reason"] else stored), markup=False, soft_wrap=True)

    def _on_start(self, event: events.Start) -> None:
        self._steps = event["steps"]
        self._recall = ""

    def _on_step(self, event: events.Step) -> None:
        name = f"train {escape(event['method'])} seed {event['seed']}"
        total = self._steps or None
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note="")
        note = f"loss {event['loss']:.3f} rate {event['learning_rate']:.1e} scale {event['logit_scale']:.1f}"
        self._progress.update(self._tasks[name], completed=event["step"] + 1, note=note + self._recall)

    def _on_evaluation(self, event: Mapping[str, Any]) -> None:
        figures = {"dev R@1": "dev_mean_recall@1", "dev top-1": "dev_top1", "test top-1": "test_top1"}
        self._recall = "".join(f" {words} {event[name]:.3f}" for words, name in figures.items() if name in event)

    def _on_hubs(self, event: events.Corrected) -> None:
        change = f"dev R@1 {event['before']:.3f} -> {event['after']:.3f}"
        self._progress.print(f"corrected for hubs: {change}" + ("" if event["kept"] else ", not kept"))

    def _on_trained(self, event: events.Trained) -> None:
        method = escape(event["method"])
        bar = self._tasks.pop(f"train {method} seed {event['seed']}", None)
        if bar is not None:
            self._progress.remove_task(bar)
        self._progress.print(f"trained {method} seed {event['seed']} in {event['seconds']:.0f} s")
