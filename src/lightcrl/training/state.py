"""The state of a training on disk: progress, weights and the optimiser's moments, from which a killed run resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from lightcrl.checkpoint import Checkpoint, load_folder
from lightcrl.errors import CheckpointError
from lightcrl.files.local import whole_folder
from lightcrl.training.gradient import Stepper
from lightcrl.training.settings import identity, words


@dataclass
class Progress:
    """The progress of a run; kept in last/ and read back on resumption.

    Attributes:
        step: number of finished steps.
        epoch: epoch of the next step.
        best: best figure of the judge so far, such as mean R@1 on dev.
        best_epoch: epoch of the best figure.
        stale: number of evaluations since then.
        rate_factor: factor of the learning rate from the plateau schedule.
        plateau_best: lowest dev loss so far.
        plateau_stale: number of epochs since then.
        seconds: duration of training and its evaluations.
        finished: true if the run is over.
    """

    step: int = 0
    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    stale: int = 0
    rate_factor: float = 1.0
    plateau_best: float = math.inf
    plateau_stale: int = 0
    seconds: float = 0.0
    finished: bool = False


def save_state(
    folder: Path,
    checkpoint: Checkpoint,
    stepper: Stepper,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Write the latest checkpoint, with the optimiser's moments and the progress, in a whole folder."""
    moments = {
        f"{name}/{key}": value.detach().cpu().contiguous().clone()
        for name, parameter in stepper.parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    keep_towers(checkpoint, stepper)
    state = json.dumps({"identity": identity(settings), "progress": asdict(progress), "settings": settings})
    with whole_folder(folder) as fresh:
        checkpoint._save_pretrained(fresh)
        (fresh / "state.safetensors").write_bytes(save(moments, metadata={"state": state}))


def load_state(
    folder: Path, stepper: Stepper, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> Progress:
    """Restore weights and moments from a folder of `save_state`, and return its progress; a new one without a state.

    Raises:
        CheckpointError: the state is that of a run of other settings, data or seed.
    """
    path = folder / "state.safetensors"
    if not path.exists():
        return Progress()
    with safe_open(path, "pt") as stream:
        state = json.loads(stream.metadata()["state"])
        if state["identity"] != (expected := identity(settings)):
            raise CheckpointError(
                f"{folder.parent} holds a run of other settings, data or seed (identity {state['identity']}, expected "
                f"{expected}).{words(state.get('settings'), settings)} Choose another --output, or remove the folder."
            )
        parameters = dict(stepper.parameters())
        for key in stream.keys():  # noqa: SIM118 - not a mapping
            name, _, moment = key.rpartition("/")
            value = stream.get_tensor(key)
            optimizer.state[parameters[name]][moment] = value.to(parameters[name].device) if value.ndim else value
    put_back(load_folder(folder), stepper)
    return Progress(**state["progress"])


def keep_towers(checkpoint: Checkpoint, stepper: Stepper) -> None:
    """Store the trained towers in the checkpoint."""
    for name, store in stepper.live.items():
        checkpoint.towers[name] = store.tower.tuned()


def put_back(saved: Checkpoint, stepper: Stepper) -> None:
    """Restore the method and the towers from a checkpoint."""
    stepper.method.take_state(saved.method.state_dict())
    for name, store in stepper.live.items():
        store.tower.load(saved.towers[name].tensors)
