"""A sample of groups: each item goes through its encoder once, with every layer and pool that a recipe can choose."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightcrl.data import Dataset, Rejection
from lightcrl.encoders.base import Choices, Encoder, Slot
from lightcrl.errors import DataError, EncoderError, ItemError
from lightcrl.events import Tell
from lightcrl.features.encoding import encode_items
from lightcrl.files.local import make_folder, whole_file, write_json
from lightcrl.files.remote import local_place

# Number of train and dev groups that are encoded first, to measure the time per item.
FIRST = 24
# Greatest number of examined items per group and modality: five captions in place of two are worth half as many groups
# again (docs/LOG.md).
PER_GROUP = 5
# Greatest number of groups: more groups change the figures less than their intervals.
MOST = {"train": 1000, "dev": 500}
# Least number of groups: fewer cannot be divided for fitting and judging.
LEAST = {"train": 60, "dev": 20}


@dataclass(frozen=True)
class Part:
    """The items of a modality in a split of the sample.

    Attributes:
        slots: features of every slot, [N, D_s] float32.
        groups: places of the items' groups in the sample's list of that split, [N], ascending.
        items: item numbers in the data set, [N].
    """

    slots: list[Tensor]
    groups: Tensor
    items: np.ndarray


@dataclass(frozen=True)
class Layout:
    """The slots of an encoder, and the recipe's choice.

    Attributes:
        names: names of the slots: layers and pools, or the tokens if there is no choice.
        auto: numbers of the slots of `"auto"`; all if there is no choice.
        chosen: numbers of the recipe's slots; None if its tokens are not pools.
        free: true if layers and tokens can be chosen.
        sequence: the recipe's tokens after the slots, `"all"` or `"grid:N"`; pools are judged without them.
    """

    names: tuple[Slot | str, ...]
    auto: tuple[int, ...]
    chosen: tuple[int, ...] | None
    free: bool
    sequence: str = ""


@dataclass(frozen=True)
class Sample:
    """The drawn groups and the encoders' outputs for them.

    Attributes:
        groups: numbers of the groups in the data set, by split.
        parts: items by modality and split.
        layouts: slots by modality.
        milliseconds: time per item, by modality.
        rejected: unreadable items.
    """

    groups: dict[str, np.ndarray]
    parts: dict[str, dict[str, Part]]
    layouts: dict[str, Layout]
    milliseconds: dict[str, float]
    rejected: list[Rejection]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs of modalities, in the recipe's order."""
        return list(combinations(self.parts, 2))


def draw_groups(dataset: Dataset, seed: int) -> dict[str, np.ndarray]:
    """Draw the groups with items of two modalities or more, by split, in an order that depends on `seed`.

    Raises:
        DataError: train or dev has fewer groups than the check needs.
    """
    present = np.stack(
        [np.bincount(links[:, 1], minlength=len(dataset.groups)) > 0 for links in dataset.links.values()]
    )
    usable = present.sum(0) >= 2
    generator = np.random.default_rng(seed)
    drawn = {}
    for split, least in LEAST.items():
        mine = np.flatnonzero(usable & (np.array(dataset.splits) == split))
        if len(mine) < least:
            total = dataset.splits.count(split)
            raise DataError(
                f"{len(mine)} of the {total} groups in {split} have items of two modalities; a check needs {least} or "
                "more. Check data.key and data.columns; with this little data, compare methods on all of it instead."
            )
        drawn[split] = generator.permutation(mine)
    return drawn


def take_sample(
    dataset: Dataset,
    encoders: Mapping[str, Encoder],
    folder: Path | str,
    *,
    size: int | None = None,
    seconds: float = 45.0,
    workers: int = 2,
    seed: int = 0,
    tell: Tell = lambda event: None,
) -> Sample:
    """Draw groups and encode their items.

    Args:
        dataset: all of the data.
        encoders: encoders by modality.
        folder: folder of the feature stores; outputs are kept below it, so that a second check encodes nothing. For a
            URI they are kept on this machine, below the cache.
        size: number of train groups; by default as many as can be encoded in `seconds`, at most 1,000. Dev has a third
            of that, at most 500.
        seconds: time for encoding, without loading the encoders.
        workers: number of decoding threads.
        seed: seed of the draw.
        tell: function that is called with events `encode`.

    Raises:
        DataError: there are too few groups, or too few readable ones.
        EncoderError: an encoder's tokens are unusable.
    """
    order = draw_groups(dataset, seed)
    generator = np.random.default_rng(seed)
    members = {name: _by_group(dataset.links[name], generator) for name in encoders}
    readers = {name: _Reader(encoder, dataset, name, folder, workers, tell) for name, encoder in encoders.items()}
    costs = {}
    for name, reader in readers.items():
        reader.encode(
            [item for split in order for group in order[split][:FIRST] for item in members[name].get(group, [])]
        )
        costs[name] = reader.cost
    if size is None:
        # Both splits are encoded, dev a third of train.
        groups = [group for split in order for group in order[split][:FIRST]]
        each = sum(costs[name] * np.mean([len(members[name].get(group, [])) for group in groups]) for name in encoders)
        size = min(MOST["train"], max(LEAST["train"], int(seconds / max(each, 1e-6) * 3 / 4)))
    counts = {"train": max(size, LEAST["train"]), "dev": max(LEAST["dev"], min(MOST["dev"], size // 3))}
    groups_of = {split: order[split][: counts[split]] for split in order}
    wanted = {
        name: {
            split: [(place, item) for place, group in enumerate(chosen) for item in members[name].get(group, [])]
            for split, chosen in groups_of.items()
        }
        for name in encoders
    }
    parts = {}
    for name, reader in readers.items():
        reader.encode([item for split in wanted[name].values() for _, item in split])
        reader.keep()
        parts[name] = {split: reader.part(drawn) for split, drawn in wanted[name].items()}
        for split, part in parts[name].items():
            if not len(part.items):
                raise DataError(
                    f"no item of modality {name!r} in the {split} sample of {len(groups_of[split])} groups could be "
                    f"used ({len(reader.rejected)} set aside). Check its column and its files."
                )
    return Sample(
        groups_of,
        parts,
        {name: reader.layout for name, reader in readers.items()},
        {name: reader.cost * 1e3 for name, reader in readers.items()},
        [rejection for reader in readers.values() for rejection in reader.rejected],
    )


def _by_group(links: np.ndarray, generator: np.random.Generator) -> dict[int, list[int]]:
    """Draw at most `PER_GROUP` items of each group."""
    by_group: dict[int, list[int]] = {}
    for item, group in links[generator.permutation(len(links))].tolist():
        mine = by_group.setdefault(group, [])
        if len(mine) < PER_GROUP:
            mine.append(item)
    return by_group


class _Reader:
    """An encoder of items of a modality, each at most once.

    Its outputs are kept in a folder beside the feature stores: values.npy [N, S, D] float32, and items.json with the
    keys of the items and the seconds per item.
    """

    def __init__(
        self, encoder: Encoder, dataset: Dataset, modality: str, folder: Path | str, workers: int, tell: Tell
    ) -> None:
        self.choices: Choices | None = encoder.choices()
        self.encoder = self.choices.encoder if self.choices else encoder
        self.items, self.modality = dataset.items[modality], modality
        self.workers, self.tell = workers, tell
        self.folder = local_place(folder) / f"check-{modality}-{self.encoder.fingerprint[:16]}"
        self.found: dict[int, Tensor] = {}
        self.failed: set[int] = set()
        self.rejected: list[Rejection] = []
        self.cost = 0.0
        self._fresh = False
        self._known = self._load()

    def encode(self, numbers: list[int]) -> None:
        """Encode these items; `cost` is then the number of seconds per item."""
        for number in numbers:
            if number not in self.found and (earlier := self._known.get(self.items[number].key)) is not None:
                self.found[number] = torch.from_numpy(np.array(earlier))
        todo = [n for n in dict.fromkeys(numbers) if n not in self.found and n not in self.failed]
        start = time.perf_counter()
        places = encode_items(self.encoder, [self.items[n] for n in todo], workers=self.workers)
        for done, (place, outcome) in enumerate(places, 1):
            number = todo[place]
            if isinstance(outcome, ItemError):
                self.failed.add(number)
                source = self.items[number].source
                self.rejected.append(Rejection(source, outcome.reason, outcome.detail, self.modality))
            else:
                self.found[number] = self._slots(torch.from_numpy(np.asarray(outcome)))
            self.tell({"event": "encode", "modality": self.modality, "done": done, "total": len(todo)})
        if todo:
            self.cost, self._fresh = (time.perf_counter() - start) / len(todo), True

    def keep(self) -> None:
        """Write the outputs, together with earlier ones."""
        if not self._fresh:
            return
        values = {**self._known, **{self.items[n].key: tokens.numpy() for n, tokens in self.found.items()}}
        make_folder(self.folder)
        with whole_file(self.folder / "values.npy") as temporary, temporary.open("wb") as stream:
            np.save(stream, np.stack([*values.values()]))
        write_json(self.folder / "items.json", {"seconds": self.cost, "items": [*values]})

    def _load(self) -> dict[str, np.ndarray]:
        try:
            header = json.loads((self.folder / "items.json").read_text(encoding="utf-8"))
            values = np.load(self.folder / "values.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            return {}
        # A check that was killed between the two files leaves them inconsistent.
        if len(values) != len(header["items"]):
            return {}
        self.cost = header["seconds"]
        return dict(zip(header["items"], values, strict=True))

    def _slots(self, tokens: Tensor) -> Tensor:
        """Return [S, D] of an item: its slots, or the mean of tokens with a common meaning."""
        fixed = self.encoder.slots if self.encoder.slots > 1 else 0
        if fixed and (len(tokens) < fixed if self.encoder.sequence else len(tokens) != fixed):
            raise EncoderError(f"the encoder of {self.modality!r} gave {len(tokens)} tokens; it has {fixed} slots.")
        return tokens[:fixed] if fixed else tokens.mean(0, keepdim=True)

    @property
    def layout(self) -> Layout:
        """Return the slots by name."""
        if self.choices is None:
            count = len(next(iter(self.found.values())))
            names = tuple(f"slot {n}" for n in range(1, count + 1)) if count > 1 else ("tokens",)
            return Layout(names, tuple(range(count)), tuple(range(count)), False)
        number = {slot: n for n, slot in enumerate(self.choices.slots)}
        chosen = self.choices.chosen
        return Layout(
            self.choices.slots,
            tuple(number[slot] for slot in self.choices.auto),
            None if chosen is None else tuple(number[slot] for slot in chosen),
            True,
            self.choices.sequence,
        )

    def part(self, wanted: list[tuple[int, int]]) -> Part:
        """Return the readable items, given as (place of the group, number)."""
        kept = [(place, item) for place, item in wanted if item in self.found]
        if not kept:
            return Part([], torch.zeros(0, dtype=torch.int64), np.zeros(0, dtype=np.int64))
        values = torch.stack([self.found[item] for _, item in kept])
        slots = [slot[:, :width] for slot, width in zip(values.unbind(1), self._widths(), strict=True)]
        return Part(slots, torch.tensor([place for place, _ in kept]), np.array([item for _, item in kept]))

    def _widths(self) -> list[int]:
        """Return the width of every slot, without the zeros that pad it to the widest."""
        used = torch.stack([values != 0 for values in self.found.values()]).any(0)
        return [int(columns.nonzero().max()) + 1 if columns.any() else 1 for columns in used]
