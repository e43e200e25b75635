"""Training on feature stores ten times larger than the allowed memory, compared with stores in memory.

    python benchmarks/larger_than_memory.py --items 10000000 --json larger.json

generates two modalities of that many items (384 numbers in float16, with a planted relation), and prints two tables:

1. all items, in a process that may allocate a tenth of the size of the stores (RLIMIT_DATA: everything except mapped
   files);
2. parts of `--part` items, which fit into memory: held in memory (a full shuffle), and in windows with the files in the
   system's cache and dropped from it (block shuffling). The three trainings alternate, for some seconds each, since a
   machine's speed changes from minute to minute; medians over turns.

`--dtypes float16 int8` compares stores of `--items` in these dtypes instead: both trainings read windows of files that
are not cached, in turns. `--rate` is the greatest number of MB/s that a training reads, as from a slower disk.

`--sorted` sorts items by class, so that neighbours are similar: the hard case for block shuffling. Needs 16 GB of
disk; the stores are removed at the end unless `--keep` is given.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

MODALITIES = ("left", "right")
LATENT, NOISE = 48, 3.0
DEV = 1000
CLASS = 5000
GIB = 2**30


def make(
    folder: Path,
    items: int,
    dim: int,
    *,
    ordered: bool,
    noise: float = NOISE,
    slots: int = 1,
    dtype: str = "float16",
) -> float:
    """Write both stores and return the seconds."""
    from lightcrl.features.packing import pack
    from lightcrl.features.store import write_manifest, write_shard

    begun = time.perf_counter()
    bases = [np.random.default_rng(n).normal(size=(LATENT, dim)).astype("f4") / LATENT**0.5 for n in (1, 2)]
    centres = np.random.default_rng(3).normal(size=(-(-items // CLASS), LATENT)).astype("f4")
    pool = np.random.default_rng(4).normal(size=(1 << 17, dim)).astype("f4") * noise
    size = max(1024, -(-items // 1024))
    shards: list[list[Any]] = [[], []]
    for number, first in enumerate(range(0, items, size)):
        rows = np.arange(first, min(first + size, items))
        generator = np.random.default_rng([5, number])
        latent = generator.normal(size=(len(rows), LATENT)).astype("f4")
        if ordered:
            latent = 0.5**0.5 * (latent + centres[rows // CLASS])
        names = [f"g{row:08d}" for row in rows.tolist()]
        every = max(1, items // DEV)
        split = ["dev" if row % every == 0 else "train" for row in rows.tolist()]
        for place, (modality, basis) in enumerate(zip(MODALITIES, bases, strict=True)):
            count = len(rows) * slots
            start = generator.integers(len(pool) - count)
            tokens = (latent @ basis)[:, None] + pool[start : start + count].reshape(len(rows), slots, dim)
            values = pack(tokens.reshape(count, dim), dtype).reshape(len(rows), slots, -1)
            metadata = {"row": list(range(len(rows))), "item": names, "group": names, "split": split, "source": names}
            (folder / modality).mkdir(parents=True, exist_ok=True)
            shard = write_shard(folder / modality, number, modality, list(values), metadata, [], dim, dtype)
            shards[place].append(shard)
    for modality, entries in zip(MODALITIES, shards, strict=True):
        write_manifest(folder / modality, modality, header(modality, dim, slots, dtype), entries)
    return time.perf_counter() - begun


def header(modality: str, dim: int, slots: int = 1, dtype: str = "float16") -> dict[str, Any]:
    return {"modality": modality, "kind": "text", "encoder": {}, "dim": dim, "slots": slots, "dtype": dtype}


def make_part(folder: Path, whole: Path, items: int, number: int) -> None:
    """Make stores from the first or the following shards of that many items, by links."""
    from lightcrl.features.store import Shard, write_manifest

    for modality in MODALITIES:
        (folder / modality).mkdir(parents=True, exist_ok=True)
        manifest = json.loads((whole / modality / "manifest.json").read_text())
        entries = [Shard(**entry) for entry in manifest["shards"]]
        shards = int(sum(np.cumsum([entry.rows for entry in entries]) <= items))
        renamed = []
        for place, entry in enumerate(entries[number * shards : (number + 1) * shards]):
            files = {f"{name.split('-')[0]}-{place:05d}{Path(name).suffix}": name for name in entry.files}
            for name, source in files.items():
                (folder / modality / name).unlink(missing_ok=True)
                (folder / modality / name).symlink_to((whole / modality / source).absolute())
            renamed.append(replace(entry, files={name: entry.files[source] for name, source in files.items()}))
        write_manifest(folder / modality, modality, header(modality, manifest["dim"]), renamed)


def evict(folder: Path) -> None:
    """Drop the files from the system's cache."""
    os.sync()
    for path in folder.glob("*/values-*.npy"):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def slow_down(rate: float) -> None:
    """Read at most `rate` MB/s from files."""
    from lightcrl.features import reading

    read, free = reading._read, [time.monotonic()]

    def slowly(file: int, path: Path, position: int, into: np.ndarray) -> None:
        read(file, path, position, into)
        free[0] = max(free[0], time.monotonic()) + into.nbytes / (1e6 * rate)
        time.sleep(max(0.0, free[0] - time.monotonic()))

    reading._read = slowly


class EnoughError(Exception):
    """The requested number of steps is done."""


def train_some(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Open the stores, train for some steps, measure on dev, and return the figures."""
    import torch

    from lightcrl.checkpoint import Checkpoint
    from lightcrl.encoders.base import EncoderSpec
    from lightcrl.features import Features, FeatureStore
    from lightcrl.methods.spec import make_method
    from lightcrl.training.judge import by_retrieval
    from lightcrl.training.loop import train
    from lightcrl.training.spec import TrainingSpec

    torch.set_num_threads(1)
    if given.rate:
        slow_down(given.rate)
    base = resident()
    begun = time.perf_counter()
    stores = {modality: FeatureStore(folder / modality) for modality in MODALITIES}
    opened = time.perf_counter()
    features = Features(stores)
    metadata_read = time.perf_counter()
    metadata_bytes = resident()
    size = sum(store.nbytes for store in stores.values())
    checkpoint = Checkpoint(
        make_method(given.method, features.specs, {}, "info_nce", 0),
        name=given.method,
        loss="info_nce",
        encoders={name: EncoderSpec(kind="text", model="builtin") for name in stores},
        fingerprints=dict.fromkeys(stores, "f"),
    )
    moments: list[float] = []
    worked: list[float] = []
    plan: dict[str, Any] = {}

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            plan.update(event)
        elif event["event"] == "step":
            moments.append(time.perf_counter())
            worked.append(time.process_time())
            if len(moments) == given.steps:
                raise EnoughError

    spec = TrainingSpec(
        epochs=1, batch_size=given.batch, memory=given.memory, warmup=0, schedule="plateau", tensorboard=False
    )
    run = folder / f"run-{os.getpid()}"
    started = time.perf_counter()
    with contextlib.suppress(EnoughError):
        train(checkpoint, features, spec, run, report=report)
    shutil.rmtree(run)
    training = resident()
    measured = time.perf_counter()
    figures = by_retrieval(checkpoint.method, features, 0).figures
    # The first tenth warms up.
    warm = len(moments) // 10
    return {
        "bytes": size,
        "open_ms": 1000 * (opened - begun),
        "metadata_s": metadata_read - opened,
        "first_step_s": moments[0] - started,
        "steps_per_second": (len(moments) - 1 - warm) / (moments[-1] - moments[warm]),
        "cpu_ms_per_step": 1000 * (worked[-1] - worked[warm]) / (len(worked) - 1 - warm),
        "dev_s": time.perf_counter() - measured,
        "recall@1": figures["dev_mean_recall@1"],
        "resident": {"before": base, "metadata": metadata_bytes, "training": training, "all": resident()},
        "window": plan.get("window"),
        "steps_per_epoch": plan.get("steps_per_epoch"),
    }


def resident() -> float:
    """Return the peak resident bytes; `getrusage` would include the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


class Child:
    """A process that runs `train_some` and may allocate `limit` bytes."""

    def __init__(self, folder: Path, given: argparse.Namespace, memory: float, limit: float | None = None) -> None:
        words = ["--measure", str(folder), "--memory", memory, "--steps", given.steps, "--batch", given.batch]
        words += ["--method", given.method, "--rate", given.rate, *(["--limit", int(limit)] if limit else [])]
        # Arrow's default pool reserves a GiB of unused addresses, which the limit would count.
        environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
        command = [sys.executable, __file__, *map(str, words)]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self.log = folder / f"run-{self.process.pid}" / "log.jsonl"

    def steps(self) -> int:
        """Return the number of finished steps."""
        return self.log.read_text().count('"event": "step"') if self.log.exists() else 0

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def figures(self) -> dict[str, Any]:
        """Wait for the end and return the figures."""
        output, _ = self.process.communicate()
        if self.process.returncode:
            raise SystemExit(f"a measurement ended with {self.process.returncode}")
        return dict(json.loads(output.splitlines()[-1]))


def in_turns(
    children: dict[str, Child], seconds: float, before: dict[str, Callable[[], None]]
) -> dict[str, list[float]]:
    """Return steps per second of alternating trainings, turn by turn, until the first is done."""
    for child in children.values():
        while child.steps() < 20 and child.process.poll() is None:
            time.sleep(0.1)
        child.pause()
    rates: dict[str, list[float]] = {name: [] for name in children}
    while True:
        for name, child in children.items():
            before.get(name, lambda: None)()
            child.wake()
            time.sleep(0.2)
            first, begun = child.steps(), time.monotonic()
            time.sleep(seconds)
            last, ended = child.steps(), time.monotonic()
            if child.process.poll() is not None or not child.log.exists():
                for other in children.values():
                    other.wake()
                return {name: rate[: len(rates[name])] for name, rate in rates.items()}
            child.pause()
            rates[name].append((last - first) / (ended - begun))


def compare(given: argparse.Namespace) -> None:
    """Print the speed of training on files that are not cached, by dtype of the stores."""
    places = {dtype: Path(given.folder) / dtype for dtype in given.dtypes}
    for dtype, place in places.items():
        if not (place / MODALITIES[1] / "manifest.json").exists():
            make(place, given.items, given.dim, ordered=given.sorted, slots=given.slots, dtype=dtype)
        evict(place)
    children = {dtype: Child(place, given, given.memory) for dtype, place in places.items()}
    rates = in_turns(children, given.turn, {dtype: lambda p=place: evict(p) for dtype, place in places.items()})
    runs = {dtype: child.figures() for dtype, child in children.items()}
    first = given.dtypes[0]
    rows = [["dtype", "MB a step", "steps/s", f"times {first}", "processor time of a step", "peak resident", "dev R@1"]]
    for dtype, run in runs.items():
        ratios = [own / other for own, other in zip(rates[dtype], rates[first], strict=False) if other]
        rows.append(
            [
                dtype,
                f"{given.batch * run['bytes'] / given.items / 1e6:.1f}",
                f"{median(rates[dtype]):.2f}",
                f"{median(ratios):.2f}",
                f"{run['cpu_ms_per_step']:.0f} ms",
                f"{run['resident']['all'] / 1e9:.2f} GB",
                f"{run['recall@1']:.3f}",
            ]
        )
    print(f"{given.items:,} x 2 items of {given.slots} x {given.dim}, {len(rates[first])} turns of {given.turn:g} s.\n")
    table(rows)
    if not given.keep:
        shutil.rmtree(given.folder)


def table(rows: list[list[str]]) -> None:
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows[1:]:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000_000, help="of each modality")
    parser.add_argument("--part", type=int, default=2_000_000, help="items that are also held in memory")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--memory", type=float, default=0.5, help="training.memory of the windows, in GiB")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--method", default="linear")
    parser.add_argument("--turn", type=float, default=3.0, help="seconds for which one of three trainings is awake")
    parser.add_argument("--sorted", action="store_true", help="items in order of a class each")
    parser.add_argument("--folder", default="runs/larger_than_memory", help="of the stores")
    parser.add_argument("--keep", action="store_true", help="leave the stores where they are")
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--dtypes", nargs="+", help="compare stores in these dtypes")
    parser.add_argument("--slots", type=int, default=1, help="vectors of an item, with --dtypes")
    parser.add_argument("--rate", type=float, default=0, help="greatest number of MB/s read; 0 is no limit")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if given.measure:
        if given.limit:
            resource.setrlimit(resource.RLIMIT_DATA, (given.limit, given.limit))
        print(json.dumps(train_some(Path(given.measure), given)))
        return

    if given.dtypes:
        compare(given)
        return
    import roofline

    folder = Path(given.folder)
    whole, parts = folder / "whole", [folder / "part0", folder / "part1"]
    seconds = 0.0 if (whole / MODALITIES[1] / "manifest.json").exists() else None
    if seconds is None:
        seconds = make(whole, given.items, given.dim, ordered=given.sorted)
    evict(whole)
    limit = given.items * given.dim * 2 * len(MODALITIES) / 10
    figures = Child(whole, given, given.memory, max(limit, 10**9)).figures()
    disk, _ = roofline.disk_rates(str(folder))
    per_step = given.batch * given.dim * 2 * len(MODALITIES)
    window = figures["window"] or {"block": 0, "batches": 0}
    table(
        [
            ["store", "may allocate", "open", "metadata", "first step after", "peak resident", "steps/s", "dev R@1"],
            [
                f"{figures['bytes'] / 1e9:.1f} GB",
                f"{max(limit, 10**9) / 1e9:.2f} GB",
                f"{figures['open_ms']:.0f} ms",
                f"{figures['metadata_s']:.1f} s",
                f"{figures['first_step_s']:.1f} s",
                f"{figures['resident']['all'] / 1e9:.2f} GB",
                f"{figures['steps_per_second']:.1f}",
                f"{figures['recall@1']:.3f}",
            ],
        ]
    )
    read = figures["steps_per_second"] * per_step
    most = {name: f"{size / 1e9:.2f} GB" for name, size in figures["resident"].items()}
    print(
        f"{given.items:,} x 2 items in windows of {window['batches']} batches and blocks of {window['block']} groups, "
        f"each read once: {read / 1e6:.0f} MB/s, {read / disk:.0%} of what the disk gives. Resident before the stores "
        f"were opened {most['before']}, with metadata {most['metadata']}, in training {most['training']}. Written in "
        f"{seconds:.0f} s.\n"
    )

    for number, part in enumerate(parts):
        make_part(part, whole, given.part, number)
    size = given.part * given.dim * 2 * len(MODALITIES)
    # A window is the same share of the part as of the whole above.
    small = given.memory * given.part / given.items
    evict(parts[1])
    children = {
        "in memory": Child(parts[0], given, 2 * size / GIB),
        "windows, cached": Child(parts[0], given, small),
        "windows, not cached": Child(parts[1], given, small),
    }
    rates = in_turns(children, given.turn, {"windows, not cached": lambda: evict(parts[1])})
    runs = {name: child.figures() for name, child in children.items()}
    rows = [["", "steps/s", "of in memory", "processor time of a step", "first step after", "most resident", "dev R@1"]]
    turns = min(map(len, rates.values()))
    if not turns:
        raise SystemExit(
            f"{given.steps} steps were done before all three had a turn. Give more --steps, or a shorter --turn."
        )
    for name, run in runs.items():
        shares = [one / other for one, other in zip(rates[name], rates["in memory"], strict=False)]
        rows.append(
            [
                name,
                f"{median(rates[name]):.1f}",
                f"{median(shares):.0%}",
                f"{run['cpu_ms_per_step']:.1f} ms",
                f"{run['first_step_s']:.1f} s",
                f"{run['resident']['all'] / 1e9:.2f} GB",
                f"{run['recall@1']:.3f}",
            ]
        )
    print(f"{given.part:,} x 2 items, {turns} turns of {given.turn:g} s each.\n")
    table(rows)
    if given.json:
        kept = {
            "arguments": vars(given),
            "disk": disk,
            "written_s": seconds,
            "whole": figures,
            "part": runs,
            "rates": rates,
        }
        Path(given.json).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if not given.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
