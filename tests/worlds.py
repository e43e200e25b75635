"""A tiny data set and an encoder for tests of the store: numbers as texts, one token per digit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightcrl.data.base import Dataset, text_item
from lightcrl.encoders.base import Encoder
from lightcrl.errors import ItemError
from lightcrl.features.engines import Crew
from lightcrl.features.shards import Job, Made, Task, make_shard
from lightcrl.tokens import TokenBatch


class Digits(Encoder):
    """Text "305" -> tokens [3, 4]: powers of each digit, changed a little by `version`."""

    kind = "text"
    dim = 4
    batch_size = 7

    def __init__(self, version: int = 1, pause: float = 0.0) -> None:
        self.version = version
        self.pause = pause
        self.calls: list[str] = []

    def describe(self) -> Mapping[str, Any]:
        return {"class": "Digits", "version": self.version}

    def prepare(self, raw: Any) -> Any:
        if not raw.isdigit():
            raise ItemError("not a number", raw)
        return raw

    def length(self, prepared: Any) -> int:
        return len(prepared)

    def encode(self, prepared: Sequence[Any]) -> TokenBatch:
        time.sleep(self.pause)
        self.calls.extend(prepared)
        return TokenBatch.from_ragged([torch.from_numpy(self.tokens(text)) for text in prepared])

    def tokens(self, text: str) -> np.ndarray:
        digits = np.array([int(digit) for digit in text], dtype=np.float32)
        return np.stack([digits**power for power in range(3)] + [digits * 0 + self.version], 1)


class Deadly(Digits):
    """The same tokens, but some numbers kill the process that encodes them, always or once"""

    def __init__(self, folder: Path, once: Sequence[str] = (), always: Sequence[str] = ()) -> None:
        super().__init__()
        self.folder, self.once, self.always = folder, frozenset(once), frozenset(always)

    def encode(self, prepared: Sequence[Any]) -> TokenBatch:
        for text in self.once.intersection(prepared):
            with suppress(FileExistsError):
                (self.folder / f"died-of-{text}").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        if self.always.intersection(prepared):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(prepared)


def backwards(
    job: Job, encoder: Encoder, tasks: Iterator[Task], advance: Callable[[int], None], crew: Crew
) -> Generator[Made, None, None]:
    """An engine as a user may write it: the last shard first."""
    for task in reversed(list(tasks)):
        yield make_shard(job, task, lambda: encoder, advance)


def numbers(count: int, *, split: str = "train", bad: Sequence[int] = ()) -> Dataset:
    """`count` groups of one number each; those in `bad` cannot be read."""
    texts = [f"word {number}" if number in bad else str(number * 37 % 5003) for number in range(count)]
    return Dataset(
        groups=[f"g{number}" for number in range(count)],
        splits=[split] * count,
        items={"text": [text_item(text, f"numbers:{number}") for number, text in enumerate(texts)]},
        links={"text": np.stack([np.arange(count)] * 2, 1)},
    )
