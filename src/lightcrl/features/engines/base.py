"""The interface of all engines: missing shards in, complete shards out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from lightcrl.encoders.base import Encoder
from lightcrl.features.shards import Job, Made, Task


@dataclass(frozen=True, slots=True)
class Crew:
    """Encoding processes other than this process.

    Attributes:
        actors: number of actors, `"auto"` for as many as fit.
        cpus: cores of each actor, and threads of its arithmetic.
        gpus: GPUs of each actor; below 1, several actors share a GPU.
    """

    actors: int | Literal["auto"] = "auto"
    cpus: int = 1
    gpus: float = 0.0


class Engine(Protocol):
    """A function that makes shards by `make_shard`, in any order, until the iterator ends or is closed."""

    def __call__(
        self, job: Job, encoder: Encoder, tasks: Iterator[Task], advance: Callable[[int], None], crew: Crew
    ) -> Generator[Made, None, None]:
        """Yield each shard when it is complete; call `advance` with numbers of finished items.

        Raises:
            LightCRLError: an error of `make_shard`.
            EngineError: the encoding machines fail.
        """
        ...
