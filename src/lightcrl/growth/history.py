"""The history of a model: what every step of growth records, and how an ancestor is restored from the checkpoint alone.

A step that only adds leaves every weight of the parent in the checkpoint. A step that replaces or removes keeps the
weights of the modality in `Checkpoint.former`. A restored ancestor has its original digest, or is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from lightcrl.checkpoint import Checkpoint, load_checkpoint
from lightcrl.encoders.base import EncoderSpec
from lightcrl.encoders.tower import Tuned, TuningSpec
from lightcrl.errors import CheckpointError, GrowthError
from lightcrl.files.local import make_folder
from lightcrl.files.locks import only_writer
from lightcrl.growth.refusals import check_apart
from lightcrl.lineage import change
from lightcrl.methods.spec import make_method
from lightcrl.tokens import TokenSpec

TOWER = "tower {}/"
"""Prefix of the tensors of a tower in `Checkpoint.former`, after the number of the step."""


def make_step(
    base: Checkpoint, kind: str, names: Sequence[str], *, data: str = "", figures: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a step for the lineage of a child, and the tensors that the child lacks.

    Args:
        base: the parent.
        kind: a member of `lightcrl.lineage.CHANGES`.
        names: modalities that are added, replaced or removed.
        data: digest of the groups; empty for a removal.
        figures: figures of the changed modalities.
    """
    number = len(base.lineage)
    gone = () if kind == "added" else tuple(names)
    before: dict[str, Any] = {
        "method": base.method_config(),
        "modalities": list(base.method.modalities),
        "entries": {name: base.modality_config(name) for name in gone},
        "recipe": base.recipe,
        "figures": base.figures,
    }
    before |= {"data": base.data} if base.data else {}
    state, kept = base.method.state_dict(), dict[str, Tensor]()
    for name in gone:
        kept |= {leaf: state[leaf] for leaf in base.method.leaves_of(name)}
        if tuned := base.towers.get(name):
            before.setdefault("towers", {})[name] = tuned.spec.model_dump(mode="json")
            kept |= {TOWER.format(name) + leaf: tensor for leaf, tensor in tuned.tensors.items()}
    step: dict[str, Any] = {"from": base.digest, kind: list(names), "date": _now()}
    step |= {"data": data} if data else {}
    step |= {"figures": dict(figures)} if figures else {}
    former = {f"{number}/{leaf}": tensor.detach().cpu().contiguous().clone() for leaf, tensor in kept.items()}
    return {**step, "before": before}, former


def dated_like(child: Checkpoint, folder: Path) -> Checkpoint:
    """Return the child with the date of the same child in `folder`, if it was written before."""
    try:
        earlier = load_checkpoint(folder)
    except CheckpointError:
        return child
    if earlier.digest == child.digest:
        child.lineage[-1]["date"] = earlier.lineage[-1].get("date", child.lineage[-1]["date"])
    return child


def rollback(model: Path | str, ancestor: str, output: Path | str) -> Checkpoint:
    """Restore an ancestor of a model, bit for bit, and return its checkpoint.

    Args:
        model: a run's folder, a checkpoint's folder or a hub id.
        ancestor: first digits of the ancestor's digest.
        output: folder of the ancestor.

    Raises:
        GrowthError: the model has no such ancestor, or several, or was extended by a version that kept no record.
    """
    folder = Path(output)
    check_apart(model, folder)
    restored = restore(load_checkpoint(model), ancestor)
    with only_writer(folder):
        restored.save(make_folder(folder) / "best")
    return load_checkpoint(folder)


def restore(checkpoint: Checkpoint, ancestor: str) -> Checkpoint:
    """Return an ancestor of a checkpoint, bit for bit; arguments and errors as in `rollback`."""
    digests = [str(step["from"]) for step in checkpoint.lineage]
    matching = [number for number, digest in enumerate(digests) if ancestor and digest.startswith(ancestor)]
    if len(matching) != 1:
        have = ", ".join(digest[:12] for digest in digests) or "none: it was trained whole"
        raise GrowthError(
            f"{len(matching)} ancestors with a digest that begins with {ancestor!r}; the model has {have}. Give more "
            "digits of one of these (lightcrl info shows them)."
        )
    while len(checkpoint.lineage) > matching[0]:
        checkpoint = _parent(checkpoint)
    return checkpoint


def _parent(child: Checkpoint) -> Checkpoint:
    """Return the parent of a checkpoint."""
    number, step = len(child.lineage) - 1, child.lineage[-1]
    if "before" not in step:
        raise GrowthError(
            f"the step from {step['from'][:12]} was made by an earlier version of lightcrl, which kept no record of "
            "the parent. Use the folder of that model itself."
        )
    before, entries = step["before"], step["before"]["entries"]
    own = {leaf.partition("/")[2]: tensor for leaf, tensor in child.former.items() if leaf.startswith(f"{number}/")}
    state = {**child.method.state_dict(), **own}
    shapes = {name: TokenSpec(entry["dim"], entry["slots"], entry["sequence"]) for name, entry in entries.items()}
    modalities = {name: shapes.get(name) or child.method.modalities[name] for name in before["modalities"]}
    described = before["method"]
    method = make_method(described["name"], modalities, described["options"], described["loss"])
    method.match(state)
    method.load_state_dict({leaf: state[leaf] for leaf in method.state_dict()})
    encoders = child.encoders | {name: EncoderSpec(**entry["encoder"]) for name, entry in entries.items()}
    marks = child.fingerprints | {name: entry["fingerprint"] for name, entry in entries.items()}
    changed = change(step)[1]
    towers = {name: tuned for name, tuned in child.towers.items() if name not in changed}
    for name, spec in before.get("towers", {}).items():
        prefix = TOWER.format(name)
        tensors = {leaf.removeprefix(prefix): tensor for leaf, tensor in own.items() if leaf.startswith(prefix)}
        towers[name] = Tuned(TuningSpec(**spec), tensors)
    parent = Checkpoint(
        method.eval(),
        name=described["name"],
        loss=described["loss"],
        encoders={name: encoders[name] for name in modalities},
        fingerprints={name: marks[name] for name in modalities},
        recipe=before["recipe"],
        figures=before["figures"],
        towers=towers,
        lineage=child.lineage[:-1],
        former={leaf: tensor for leaf, tensor in child.former.items() if not leaf.startswith(f"{number}/")},
        data=before.get("data"),
    )
    if parent.digest != step["from"]:
        raise GrowthError(
            f"the restored parent has the digest {parent.digest}, expected {step['from']}: the record in the "
            "checkpoint was changed by hand. Use the folder of that model itself."
        )
    return parent


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
