"""New captions in place of texts that a cleaning drops (CapFilt of BLIP, arXiv 2201.12086)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lightcrl.embedder import Embedder, load
from lightcrl.encoders.base import fingerprint
from lightcrl.errors import CleaningError
from lightcrl.features import Features
from lightcrl.heads.base import features_of
from lightcrl.heads.captioning.head import Captioning
from lightcrl.leaves import describe
from lightcrl.studies.clean.decisions import Decision, Place, read_decisions
from lightcrl.studies.clean.pairs import Layout
from lightcrl.tasks.captioning import load_captioner
from lightcrl.training.heads import gather_material

BEAMS = 5
"""Captions of an anchor to choose from."""


@dataclass(frozen=True)
class Author:
    """A model that writes captions.

    Attributes:
        embedder: the model.
        head: its captioner.
    """

    embedder: Embedder
    head: Captioning

    @classmethod
    def of(cls, model: Path | str, name: str | None, layout: Layout, fingerprints: Mapping[str, str]) -> Author:
        """Load a model's captioner for the anchors of a cleaning.

        Args:
            model: a run's folder, a checkpoint's folder or a hub id.
            name: name of the captioner; by default `captioning`, or the only one.
            layout: groups and items.
            fingerprints: fingerprint of the features' encoder by modality.

        Raises:
            HeadError: the model has no such captioner.
            CleaningError: it describes another modality, or reads the features of another encoder.
        """
        embedder = load(model, device="cpu")
        head = load_captioner(embedder.checkpoint, name)
        if head.source != layout.anchor or head.target not in layout.judged:
            raise CleaningError(
                f"the captioner of {model} describes {head.source!r} by {head.target!r}; expected one of "
                f"{layout.anchor!r} by {' or '.join(map(repr, layout.judged))}. Give another --recaption, or --anchor."
            )
        if embedder.checkpoint.fingerprints[head.source] != fingerprints[head.source]:
            raise CleaningError(
                f"the captioner of {model} reads features of another encoder of {head.source!r} than the recipe's. "
                "Train it on cleaned.toml with [heads.captioning]."
            )
        return cls(embedder, head)

    @property
    def digest(self) -> str:
        """The digest of the captioner with its space."""
        leaves = {leaf: describe(tensor) for leaf, tensor in self.head.state_dict().items()}
        return fingerprint([self.embedder.checkpoint.digest, leaves])


def recaption(
    decisions: Sequence[Decision],
    author: Author,
    features: Features,
    layout: Layout,
    names: Sequence[str],
    folder: Path,
) -> list[Decision]:
    """Return the decisions with a new caption for each text that is dropped as wrong, where the model has a better one.

    A caption is better if the model finds it nearer to the anchor than the text that it replaces, and if no text of the
    group says the same. Captions of an earlier call in `folder` by the same captioner are used again.

    Args:
        decisions: decisions on all pairs.
        author: the captioner.
        features: features of the cleaning.
        layout: groups and items.
        names: name of every group.
        folder: folder of the cleaning.
    """
    dropped: dict[str, list[int]] = {}
    for place, each in enumerate(decisions):
        if (each.decision, each.reason, each.modality) == ("drop", "wrong", author.head.target):
            dropped.setdefault(each.group, []).append(place)
    earlier = _earlier(folder, author)
    places = {name: {decisions[place].place for place in some} for name, some in dropped.items()}
    # The captions of a group depend on each other: a group with other dropped texts is captioned anew.
    fresh = [place for name, some in dropped.items() if earlier.get(name, {}).keys() != places[name] for place in some]
    texts = {
        place: earlier.get(decisions[place].group, {}).get(decisions[place].place)
        for some in dropped.values()
        for place in some
    }
    texts |= dict.fromkeys(fresh) | _written(decisions, fresh, author, features, layout, names)
    result = list(decisions)
    for place, text in texts.items():
        if text:
            result[place] = replace(decisions[place], decision="recaption", replacement=text)
    return result


def _earlier(folder: Path, author: Author) -> dict[str, dict[Place, str | None]]:
    """Return, by group, the dropped texts of the folder's decisions with the captions of the same captioner."""
    try:
        summary = json.loads((folder / "cleaning.json").read_text(encoding="utf-8"))
        if (summary.get("captioner") or {}).get("digest") != author.digest:
            return {}
        before = read_decisions(folder / "decisions.jsonl")
    except (OSError, ValueError):
        return {}
    groups: dict[str, dict[Place, str | None]] = {}
    for each in before:
        if each.reason == "wrong" and each.modality == author.head.target:
            groups.setdefault(each.group, {})[each.place] = each.replacement
    return groups


def _written(
    decisions: Sequence[Decision],
    dropped: Sequence[int],
    author: Author,
    features: Features,
    layout: Layout,
    names: Sequence[str],
) -> dict[int, str]:
    """Return the captions that replace the texts of the decisions at `dropped`."""
    if not dropped:
        return {}
    rows = _anchor_rows(layout, names, {decisions[place].group for place in dropped})
    said: dict[str, set[str]] = {name: set() for name in rows}
    for each in decisions:
        if each.group in said and each.decision == "keep" and each.content is not None:
            said[each.group].add(_plain(each.content))
    material = gather_material(author.embedder.checkpoint, features_of(author.head, features))
    written = author.head.write_rows(material, np.array([*rows.values()]), author.head.search(beams=BEAMS))
    captions = {
        name: iter(_new([each.text for each in some], said[name])) for name, some in zip(rows, written, strict=True)
    }
    # A group with more dropped texts than captions keeps some of them dropped.
    chosen = {place: next(captions[decisions[place].group], "") for place in dropped}
    vectors = material.vectors[layout.anchor]
    anchors = torch.stack([vectors[rows[decisions[place].group]] for place in chosen])
    new, old = (
        torch.from_numpy(author.embedder.encode(some, author.head.target))
        for some in ([text or "-" for text in chosen.values()], [decisions[place].content or "" for place in chosen])
    )
    better = (anchors * (new - old)).sum(1) > 0
    return {place: text for (place, text), good in zip(chosen.items(), better.tolist(), strict=True) if text and good}


def _anchor_rows(layout: Layout, names: Sequence[str], wanted: set[str]) -> dict[str, int]:
    """Return the row of the first anchor of each wanted group."""
    anchors = layout.links[layout.anchor]
    first: dict[str, int] = {}
    for row, group in zip(anchors.rows.tolist(), anchors.groups.tolist(), strict=True):
        if names[group] in wanted:
            first.setdefault(names[group], row)
    return first


def _new(captions: Sequence[str], said: set[str]) -> list[str]:
    """Return the captions with words that are not said already, each once.

    >>> _new(["A dog .", "a dog", "two dogs", " "], {"a cat"})
    ['A dog .', 'two dogs']
    """
    by_words = {_plain(text): text for text in reversed(captions)}
    return [text for text in captions if by_words.get(_plain(text)) is text and _plain(text) not in said | {""}]


def _plain(text: str) -> str:
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())
