"""Trackers of experiments, by the interface of Accelerate's `GeneralTracker`: TensorBoard, trackio, wandb, mlflow.

A training is one run of a tracker. `trackers.json` in its folder holds the run's id, so a resumed training continues
the same run, and the figures and pages that come later are attached to it. Without a key or an address in the
environment, every tracker keeps its data on this machine:

| tracker | data on this machine | goes to a server with |
|---|---|---|
| tensorboard | tensorboard/ in the run's folder | |
| trackio | trackio's own folder (TRACKIO_DIR) | TRACKIO_SPACE_ID |
| wandb | wandb/ in the run's folder (`wandb sync` sends it later) | WANDB_API_KEY, WANDB_MODE=online |
| mlflow | mlflow.db in the run's folder | MLFLOW_TRACKING_URI |
"""

from __future__ import annotations

import inspect
import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightcrl.encoders.base import fingerprint
from lightcrl.errors import MissingExtraError, TrainingError, first_line
from lightcrl.files.local import file_digest, write_json
from lightcrl.registry import Table

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from lightcrl.checkpoint import Checkpoint

FILE = "trackers.json"

TRACKERS: Table[type[GeneralTracker]] = Table(
    "tracker",
    {
        "tensorboard": "lightcrl.training.tensorboard:TensorBoard",
        "trackio": "accelerate.tracking:TrackioTracker",
        "wandb": "accelerate.tracking:WandBTracker",
        "mlflow": "lightcrl.training.mlflow:MLflow",
    },
)
"""The trackers; a user's own subclass of `GeneralTracker` is `"package.module:Class"`."""


@dataclass(frozen=True)
class Tracked:
    """A training as a tracker knows it.

    Attributes:
        folder: folder of the training.
        project: name of the project, the recipe's.
        run: name of the run: method and seed.
        step: step at which the training resumes; 0 at its start.
    """

    folder: Path
    project: str
    run: str
    step: int = 0

    @classmethod
    def of(cls, checkpoint: Checkpoint, seed: int, folder: Path, step: int = 0) -> Tracked:
        """Return the training of a checkpoint with a seed."""
        return cls(folder, str(checkpoint.recipe.get("name", "lightcrl")), f"{checkpoint.name}-seed{seed}", step)


def check_trackers(names: Iterable[str]) -> None:
    """Refuse trackers that are unknown or not installed, without importing them.

    Raises:
        UnknownNameError: there is no such tracker.
        MissingExtraError: its package is not installed.
    """
    for name in names:
        if ":" not in name:
            TRACKERS[name]
            if find_spec(name) is None:
                raise MissingExtraError(f"training.trackers = [{name!r}]", name)


def start(names: Sequence[str], tracked: Tracked, config: Mapping[str, Any]) -> list[GeneralTracker]:
    """Start trackers, or continue their runs.

    Args:
        names: members of `TRACKERS`, or classes.
        tracked: the training.
        config: configuration of the run, a nested table.

    Raises:
        TrainingError: a tracker does not start.
    """
    if names:
        from accelerate import PartialState

        PartialState()  # trackers ask it for the main process
    state = _read(tracked.folder)
    ids: dict[str, str] = dict(state.get("runs", {}))
    again = set(ids)
    trackers = []
    for name in names:
        ids.setdefault(name, uuid.uuid4().hex[:12])
        try:
            tracker = _make(name, tracked, ids[name], name in again)
            tracker.start()
            if name not in again:
                tracker.store_init_configuration(flat(config))
        except Exception as error:  # trackers have no common class of errors
            raise TrainingError(
                f"the tracker {name!r} does not start: {first_line(error)} Leave it out of training.trackers, or mend "
                "its settings; log.jsonl has the same values."
            ) from error
        if name == "mlflow":  # it chooses its ids itself
            ids[name] = tracker.tracker.info.run_id
        trackers.append(tracker)
    if names and ids.keys() - again:
        write_json(tracked.folder / FILE, {**state, "runs": ids})
    return trackers


def attach(
    names: Sequence[str],
    tracked: Tracked,
    figures: Mapping[str, float] | None = None,
    card: str = "",
    files: Sequence[Path] = (),
) -> None:
    """Add figures, the model card and files to the runs of a finished training; the same ones are not added twice.

    Args:
        names: the trackers.
        tracked: the training, with its last step.
        figures: values by name.
        card: the model card.
        files: pages and tables.

    Raises:
        TrainingError: a tracker does not start.
    """
    what = fingerprint([dict(figures or {}), card, [file_digest(path) for path in files]])
    if not names or what in _read(tracked.folder).get("attached", []):
        return
    for name, tracker in zip(names, start(names, replace(tracked, step=0), {}), strict=True):
        if figures:
            tracker.log(dict(figures), step=tracked.step)
        add_card, add_file = _ATTACH.get(name, (_log_card, _log_file))
        if card:
            add_card(tracker, card)
        for path in files:
            add_file(tracker, path)
        tracker.finish()
    state = _read(tracked.folder)
    write_json(tracked.folder / FILE, {**state, "attached": [*state.get("attached", []), what]})


def flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return a nested table with dotted keys, and lists as JSON.

    >>> flat({"training": {"epochs": 3, "warmup": None}, "seeds": [0, 1]})
    {'training.epochs': 3, 'training.warmup': None, 'seeds': '[0, 1]'}
    """
    leaves: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{before}{key}.")
        else:
            plain = value is None or isinstance(value, (bool, int, float, str))
            leaves[f"{before}{key}"] = value if plain else json.dumps(value, default=str)
    return leaves


def _read(folder: Path) -> dict[str, Any]:
    """Return `runs`, the id of the run by tracker, and `attached`, digests of what has been added to all of them."""
    path = folder / FILE
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return state


def _make(name: str, tracked: Tracked, run_id: str, again: bool) -> GeneralTracker:
    made = TRACKERS.load(name)
    if name in _SETTINGS:
        return made(**_SETTINGS[name](tracked, run_id, again))
    # A user's own class gets what its constructor names.
    given = {
        "run_name": f"{tracked.project} {tracked.run}",
        "logging_dir": str(tracked.folder),
        "run_id": run_id,
        "resume": again,
    }
    parameters = inspect.signature(made).parameters
    return made(**{key: value for key, value in given.items() if key in parameters})


def _tensorboard(tracked: Tracked, run_id: str, again: bool) -> dict[str, Any]:
    return {"run_name": "tensorboard", "logging_dir": tracked.folder, "purge_step": tracked.step or None}


def _trackio(tracked: Tracked, run_id: str, again: bool) -> dict[str, Any]:
    # trackio finds a run by its name.
    name = f"{tracked.run} {run_id}"
    return {"run_name": tracked.project, "name": name, "resume": "allow", "embed": False, "auto_log_cpu": False}


def _wandb(tracked: Tracked, run_id: str, again: bool) -> dict[str, Any]:
    mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    place = {"dir": str(tracked.folder), "mode": mode}
    return {"run_name": tracked.project, "name": tracked.run, "id": run_id, "resume": "allow", **place}


def _mlflow(tracked: Tracked, run_id: str, again: bool) -> dict[str, Any]:
    import mlflow

    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(f"sqlite:///{tracked.folder.resolve()}/mlflow.db")
    artifacts = (tracked.folder / "mlflow").resolve().as_uri()
    named = {"run_id": run_id} if again else {"run_name": tracked.run}
    return {"experiment_name": tracked.project, "logging_dir": artifacts, **named}


_SETTINGS: Mapping[str, Callable[[Tracked, str, bool], dict[str, Any]]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
    "mlflow": _mlflow,
}


def _log_card(tracker: Any, card: str) -> None:
    tracker.log({"card": card})


def _log_file(tracker: Any, path: Path) -> None:
    """Log a file by `log_artifact(path)`, if the tracker has it."""
    if hasattr(tracker, "log_artifact"):
        tracker.log_artifact(str(path))


def _trackio_card(tracker: Any, card: str) -> None:
    import trackio

    tracker.log({"card": trackio.Markdown(card)})


def _trackio_file(tracker: Any, path: Path) -> None:
    import trackio

    trackio.save(path, project=tracker.run_name)


def _wandb_card(tracker: Any, card: str) -> None:
    tracker.tracker.config.update({"card": card}, allow_val_change=True)


def _wandb_file(tracker: Any, path: Path) -> None:
    tracker.tracker.save(str(path), base_path=str(path.parent), policy="now")


def _mlflow_card(tracker: Any, card: str) -> None:
    import mlflow

    mlflow.log_text(card, "card.md")


Adding = tuple[Callable[[Any, str], None], Callable[[Any, Path], None]]

_ATTACH: Mapping[str, Adding] = {
    "trackio": (_trackio_card, _trackio_file),
    "wandb": (_wandb_card, _wandb_file),
    "mlflow": (_mlflow_card, _log_file),
}
"""Functions that add the card, and a file, by tracker."""
