"""What every engine is: shards to be made in, complete ones out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from lightcrl.encoders.base import Encoder
from lightcrl.features.shards import Job, Made, Task


@dataclass(frozen=True, slots=True)
class Crew:
    """Who encodes, where it is not this process.

    Attributes:
        actors: how many, `"auto"` for as many as there is room for.
        cpus: cores of each, and threads of its arithmetic.
        gpus: GPUs of each; below 1, several share one.
    """

    actors: int | Literal["auto"] = "auto"
    cpus: int = 1
    gpus: float = 0.0


class Engine(Protocol):
    """Has shards made by `make_shard`, in whatever order, until the iterator ends or is closed."""

    def __call__(
        self, job: Job, encoder: Encoder, tasks: Iterator[Task], advance: Callable[[int], None], crew: Crew
    ) -> Generator[Made, None, None]:
        """Each shard when it is complete; `advance` is called with numbers of items that are done.

        Raises:
            LightCRLError: whatever `make_shard` raises.
            EngineError: the machines that should encode cannot.
        """
        ...
