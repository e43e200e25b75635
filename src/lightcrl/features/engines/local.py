"""One shard after another, in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from lightcrl.encoders.base import Encoder
from lightcrl.features.engines.base import Crew
from lightcrl.features.shards import Job, Made, Task, make_shard


def run(
    job: Job, encoder: Encoder, tasks: Iterator[Task], advance: Callable[[int], None], crew: Crew
) -> Generator[Made, None, None]:
    """See `Engine`; needs no crew."""
    for task in tasks:
        yield make_shard(job, task, lambda: encoder, advance)
