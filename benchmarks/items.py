"""Reading very many pairs of texts within a limit of memory: source, plan of the extraction, groups of the stores.

    python benchmarks/items.py --pairs 1000000 --limit 3 --output items.json
    python benchmarks/items.py --pairs 1000000 --table            # the pairs come from a file of JSON lines

The pairs are generated, all different, 38 to 60 characters a text. The stages are those of `lightcrl run`: the source
is read into a `Dataset`; `extract` identifies the data, cuts it into shards and writes them (each text has a token of
a single zero, so that no encoder is timed); `Features` reads the groups of both stores. Of each stage are stated the
seconds of the processor and of the clock, the memory that the process held when it ended beyond that at the start
(resident anonymous pages), and its peak so far. `--limit` sets RLIMIT_DATA to that many GiB: a larger process fails.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lightcrl.data import DataSpec, load_dataset
from lightcrl.data.base import Row, text_item
from lightcrl.data.spool import Items, Names
from lightcrl.encoders.base import Encoder
from lightcrl.features import Features, extract
from lightcrl.features.engines import Crew
from lightcrl.features.shards import Job, Made, Task
from lightcrl.features.store import write_shard
from lightcrl.files.local import write_json
from lightcrl.files.remote import folder_at
from lightcrl.tokens import TokenSpec

T = TypeVar("T")
POOL = "ARROW_DEFAULT_MEMORY_POOL"
KINDS = {"left": "text", "right": "text"}
NAMES = "dog cat child horse woman man boat field snow street river ball grass tower bridge train"
WORDS = NAMES.split()


def texts(number: int) -> tuple[str, str]:
    """Return the texts of a pair."""
    first, second, third = (WORDS[(number >> shift) % 16] for shift in (0, 4, 8))
    return f"a {first} beside a {second} and a {third}, {number}", f"picture {number} of the {third} with the {first}"


@dataclass(frozen=True)
class Pairs:
    """A source of generated pairs."""

    kinds: Mapping[str, str]
    count: int = 0

    def rows(self) -> Iterator[Row]:
        """Yield every pair."""
        for number in range(self.count):
            source = f"pairs:{number}"
            left, right = texts(number)
            yield Row(source, {"left": [text_item(left, source)], "right": [text_item(right, source)]})


class Zeros(Encoder):
    """An encoder of texts that is never called."""

    kind = "text"
    dim = 1

    def describe(self) -> Mapping[str, Any]:
        return {"class": "Zeros"}

    def prepare(self, raw: Any) -> Any:
        raise NotImplementedError

    def encode(self, prepared: Any) -> Any:
        raise NotImplementedError


def write_zeros(
    job: Job, encoder: Encoder, tasks: Iterator[Task], advance: Callable[[int], None], crew: Crew
) -> Generator[Made, None, None]:
    """Write shards of zeros, as an engine."""
    for task in tasks:
        lines = {
            "row": [place for place, _, _ in task.links],
            "item": [task.items[place].key for place, _, _ in task.links],
            "group": [group for _, group, _ in task.links],
            "split": [split for _, _, split in task.links],
            "source": [task.items[place].source for place, _, _ in task.links],
        }
        tokens = list(np.zeros((len(task.items), 1, 1), job.dtype))
        shard = write_shard(folder_at(job.folder), task.number, job.fingerprint, tokens, lines, [], 1, job.dtype)
        yield Made(task.number, shard, TokenSpec(1), len(tokens), 0)
        advance(len(tokens))


def resident() -> int:
    """Return the resident anonymous memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def peak() -> int:
    """Return the greatest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bytes_below(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Stages:
    """Measured stages."""

    def __init__(self, pairs: int) -> None:
        self.pairs, self.base = pairs, resident()
        self.rows: list[dict[str, Any]] = []

    def run(self, name: str, work: Callable[[], T]) -> T:
        """Return the result of a stage, after it was measured."""
        processor, clock = time.process_time(), time.perf_counter()
        result = work()
        processor, clock = time.process_time() - processor, time.perf_counter() - clock
        gc.collect()
        row = {
            "stage": name,
            "processor_s": round(processor, 1),
            "clock_s": round(clock, 1),
            "us_a_pair": round(1e6 * processor / self.pairs, 2),
            "resident_bytes_a_pair": round((resident() - self.base) / self.pairs, 1),
            "peak_gib": round(peak() / 2**30, 2),
        }
        self.rows.append(row)
        print(row, flush=True)
        return result


def write_table(path: Path, count: int) -> None:
    """Write the pairs as JSON lines."""
    with path.open("w") as stream:
        for number in range(count):
            left, right = texts(number)
            stream.write(f'{{"left": "{left}", "right": "{right}"}}\n')


def main() -> None:
    """Measure and write the stages."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--limit", type=float, help="GiB of memory")
    parser.add_argument("--table", action="store_true", help="read a file instead of generating pairs")
    parser.add_argument("--read-only", action="store_true", help="end after the source")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.limit and os.environ.get(POOL) != "system":
        # Arrow's usual allocator reserves 1 GiB of addresses, which the limit would count.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, POOL: "system"})
    folder = Path(tempfile.mkdtemp(prefix="items-"))
    os.environ["LIGHTCRL_CACHE"] = str(folder)
    try:
        spec = DataSpec(source="items:Pairs", options={"count": given.pairs})
        if given.table:
            write_table(folder / "pairs.jsonl", given.pairs)
            spec = DataSpec(path=str(folder / "pairs.jsonl"))
        if given.limit:
            resource.setrlimit(resource.RLIMIT_DATA, (round(given.limit * 2**30),) * 2)
        stages = Stages(given.pairs)
        data = stages.run("source", lambda: load_dataset(spec, KINDS))
        assert isinstance(data.groups, Names)
        tables = [data.groups.table, *(each.table for each in data.items.values() if isinstance(each, Items))]
        disk = {"items": sum(table.nbytes for table in tables) / given.pairs}
        if not given.read_only:
            stores = {}
            for name in KINDS:
                stores[name] = stages.run(
                    f"extract {name}",
                    lambda name=name: extract(Zeros(), data, name, folder, engine="items:write_zeros").store,  # type: ignore[misc]
                )
            sizes = [sum(file.stat().st_size for file in store.folder.glob("items-*")) for store in stores.values()]
            disk["metadata of both stores"] = sum(sizes) / given.pairs
            del data, tables
            features = stages.run("features", lambda: Features(stores))
            print({name: len(split) for name, split in features.splits.items()})
        print({name: round(size, 1) for name, size in disk.items()}, "bytes of disk a pair")
        if given.output:
            write_json(given.output, {"pairs": given.pairs, "stages": stages.rows, "disk_bytes_a_pair": disk})
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
