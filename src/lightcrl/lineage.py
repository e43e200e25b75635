"""The lineage of a model: the steps of growth that led to it, and which embeddings of its ancestors are its own.

A step is a table in config.json:

    from        digest of the parent, the checkpoint before the step
    added, replaced or removed      names of the modalities that the step changed
    date        end of the step, UTC
    data        digest of the groups that it read
    figures     split and R@1 in every direction from and to the changed modalities
    before      what the checkpoint no longer has of its parent; `lightcrl.growth.history` restores the parent from it

A parent and its child share every embedding of the modalities that the step left alone, bit for bit. A new encoder of a
replaced modality is trained towards the old embeddings, so these stay valid for queries of the child.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightcrl.errors import ForeignModelError

CHANGES = ("added", "replaced", "removed")
IDENTITY = ("from", *CHANGES)
"""The keys of a step that the digest of a checkpoint covers; dates and figures do not change a model."""


def identity(lineage: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the digest of a checkpoint covers of its lineage."""
    return [{key: step[key] for key in IDENTITY if key in step} for step in lineage]


def change(step: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the kind of a step, a member of `CHANGES`, and the modalities that it changed.

    >>> change({"from": "12", "added": ["audio"]})
    ('added', ('audio',))
    """
    kind = next(kind for kind in CHANGES if kind in step)
    return kind, tuple(step[kind])


def change_words(step: Mapping[str, Any]) -> str:
    """Return a step in words.

    >>> change_words({"from": "12", "replaced": ["image"]})
    'image by another encoder'
    """
    kind, names = change(step)
    listed = ", ".join(names)
    return {"added": f"with {listed}", "replaced": f"{listed} by another encoder", "removed": f"without {listed}"}[kind]


def figure_words(step: Mapping[str, Any]) -> str:
    """Return the figures of a step in words: R@1 by direction; empty for a step without figures."""
    figures = step.get("figures") or {}
    metrics = figures.get("metrics", {})
    shown = [
        f"{name.removesuffix('/recall@1').replace('_to_', ' to ')} {value:.3f}"
        for name, value in metrics.items()
        if name.endswith("/recall@1")
    ]
    return f"R@1 on {figures.get('split', 'dev')}: {', '.join(shown)}" if shown else ""


@dataclass(frozen=True)
class Line:
    """A model and the steps that led to it.

    Attributes:
        fingerprint: digest of the model's checkpoint.
        lineage: steps of growth, first step first.
    """

    fingerprint: str
    lineage: Sequence[Mapping[str, Any]] = ()

    def ancestors(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield the digest of every ancestor, the parent first, with the modalities that changed since."""
        since: frozenset[str] = frozenset()
        for step in reversed(self.lineage):
            since |= frozenset(change(step)[1])
            yield step["from"], since


def changed_since(index: Line, model: Line) -> frozenset[str] | None:
    """Return the modalities of a model whose queries an index no longer answers; None for a model of another line.

    None has changed for the index's own model and its descendants, which keep or aim at its embeddings.
    """
    if model.fingerprint == index.fingerprint or index.fingerprint in dict(model.ancestors()):
        return frozenset()
    return dict(index.ancestors()).get(model.fingerprint)


def check_valid(index: Line, model: Line, place: str, modality: str | None = None) -> None:
    """Refuse a model whose embeddings an index cannot be searched with.

    Args:
        index: model that the vectors of the index belong to.
        model: model of the queries.
        place: folder of the index and its model, for the message.
        modality: modality of the queries; by default any.

    Raises:
        ForeignModelError: the model is neither that of the index, nor a descendant, nor an ancestor; or it is an
            ancestor whose encoder of `modality` was replaced since.
    """
    since = changed_since(index, model)
    if since is None:
        raise ForeignModelError(
            f"{place} is of the model {index.fingerprint}, this is {model.fingerprint}: their embeddings have nothing "
            "in common. Give the model of the index, one extended from it, or one that it was extended from; or build "
            "an index of this one."
        )
    if modality in since:
        raise ForeignModelError(
            f"{place} is of the model {index.fingerprint}, which was extended from this one, {model.fingerprint}, with "
            f"another encoder of {modality!r}. Query with another modality, or give the model of the index."
        )


def ancestors(line: Line, modalities: Iterable[str]) -> list[dict[str, Any]]:
    """Return every ancestor of a model, the parent first: its digest, and which modalities are embedded alike."""
    return [
        {"fingerprint": digest, "modalities": [name for name in modalities if name not in since]}
        for digest, since in line.ancestors()
    ]


def history_table(fingerprint: str, lineage: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a row for each model of a line: digest, change, date, data, figures."""
    digests = [step["from"] for step in lineage] + [fingerprint]
    rows = [[f"`{digests[0][:12]}`", "trained", "", "", ""]]
    for step, digest in zip(lineage, digests[1:], strict=True):
        data = f"`{step['data'][:12]}`" if step.get("data") else ""
        rows.append([f"`{digest[:12]}`", change_words(step), str(step.get("date", ""))[:10], data, figure_words(step)])
    return rows
