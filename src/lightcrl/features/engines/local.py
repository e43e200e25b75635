"""The local engine: shards one after another, in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from lightcrl.encoders.base import Encoder
from lightcrl.features.engines.base import Crew
from lightcrl.features.shards import Job, Made, Task, make_shard


def run(
    job: Job, encoder: Encoder, tasks: Iterator[Task], advance: Callable[[int], None], crew: Crew
) -> Generator[Made, None, None]:
    """Make the shards; see `Engine`. `crew` is ignored."""
    for task in tasks:
        yield make_shard(job, task, lambda: encoder, advance)
