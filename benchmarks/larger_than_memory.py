"""Training and measuring on feature stores ten times larger than the memory allowed, beside the same in memory.

    python benchmarks/larger_than_memory.py --items 10000000 --json larger.json

makes two modalities of so many items (384 numbers in float16, a planted relation between them), and prints two tables:

1. the whole of it, by a process that may allocate a tenth of what the stores take (RLIMIT_DATA: all that is not read
   from files);
2. its first `--part` items, which fit into memory: as they do (a full shuffle), and in windows with the files in the
   system's cache and thrown out of it (block shuffling), in turns; medians.

`--sorted` puts items in order of a class each, so that neighbours are alike: the hard case for block shuffling.
Needs 16 GB of disk; the stores are removed at the end unless `--keep` is given.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

MODALITIES = ("left", "right")
LATENT, NOISE = 48, 3.0
DEV = 1000
CLASS = 5000
GIB = 2**30


def make(folder: Path, items: int, dim: int, *, ordered: bool, noise: float = NOISE) -> float:
    """Write both stores; returns seconds."""
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
            start = generator.integers(len(pool) - len(rows))
            values = (latent @ basis + pool[start : start + len(rows)]).astype("f2")[:, None]
            metadata = {"row": list(range(len(rows))), "item": names, "group": names, "split": split, "source": names}
            (folder / modality).mkdir(parents=True, exist_ok=True)
            shard = write_shard(folder / modality, number, modality, list(values), metadata, [], dim, "float16")
            shards[place].append(shard)
    for modality, found in zip(MODALITIES, shards, strict=True):
        write_manifest(folder / modality, modality, header(modality, dim), found)
    return time.perf_counter() - begun


def header(modality: str, dim: int) -> dict[str, Any]:
    return {"modality": modality, "kind": "text", "encoder": {}, "dim": dim, "slots": 1, "dtype": "float16"}


def make_part(folder: Path, whole: Path, items: int) -> None:
    """Stores of the first shards, by links."""
    from lightcrl.features.store import Shard, write_manifest

    for modality in MODALITIES:
        (folder / modality).mkdir(parents=True, exist_ok=True)
        manifest = json.loads((whole / modality / "manifest.json").read_text())
        entries = [Shard(**entry) for entry in manifest["shards"]]
        count = sum(np.cumsum([entry.rows for entry in entries]) <= items)
        for entry in entries[:count]:
            for name in entry.files:
                (folder / modality / name).unlink(missing_ok=True)
                (folder / modality / name).symlink_to((whole / modality / name).absolute())
        write_manifest(folder / modality, modality, header(modality, manifest["dim"]), entries[:count])


def evict(folder: Path) -> None:
    """Throw the files out of the system's cache."""
    os.sync()
    for path in folder.glob("*/values-*.npy"):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


class EnoughError(Exception):
    """As many steps as were wanted."""


def train_some(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Open, train for some steps, measure on dev; the figures."""
    import torch

    from lightcrl.checkpoint import Checkpoint, make_method
    from lightcrl.encoders.base import EncoderSpec
    from lightcrl.features import Features, FeatureStore
    from lightcrl.recipe import TrainingSpec
    from lightcrl.training import by_retrieval, train

    torch.set_num_threads(1)
    base = resident()
    begun = time.perf_counter()
    stores = {modality: FeatureStore(folder / modality) for modality in MODALITIES}
    opened = time.perf_counter()
    features = Features(stores)
    known = time.perf_counter()
    told = resident()
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
        "metadata_s": known - opened,
        "first_step_s": moments[0] - started,
        "steps_per_second": (len(moments) - 1 - warm) / (moments[-1] - moments[warm]),
        "cpu_ms_per_step": 1000 * (worked[-1] - worked[warm]) / (len(worked) - 1 - warm),
        "dev_s": time.perf_counter() - measured,
        "recall@1": figures["dev_mean_recall@1"],
        "resident": {"before": base, "metadata": told, "training": training, "all": resident()},
        "window": plan.get("window"),
        "steps_per_epoch": plan.get("steps_per_epoch"),
    }


def resident() -> float:
    """The most bytes that have been resident so far: what `getrusage` says counts the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def child(folder: Path, given: argparse.Namespace, memory: float, limit: float | None) -> dict[str, Any]:
    """`train_some` in a process of its own, which may allocate `limit` bytes."""
    words = ["--measure", str(folder), "--memory", memory, "--steps", given.steps, "--batch", given.batch]
    words += ["--method", given.method, *(["--limit", int(limit)] if limit else [])]
    # Arrow's usual pool sets a GiB of addresses aside, which it does not use but the limit counts.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sorted", action="store_true", help="items in order of a class each")
    parser.add_argument("--folder", default="runs/larger_than_memory", help="of the stores")
    parser.add_argument("--keep", action="store_true", help="leave the stores where they are")
    parser.add_argument("--json", help="write the figures here")
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

    import roofline

    folder = Path(given.folder)
    whole, part = folder / "whole", folder / "part"
    seconds = 0.0 if (whole / MODALITIES[1] / "manifest.json").exists() else None
    if seconds is None:
        seconds = make(whole, given.items, given.dim, ordered=given.sorted)
    evict(whole)
    limit = given.items * given.dim * 2 * len(MODALITIES) / 10
    found = child(whole, given, given.memory, max(limit, 10**9))
    disk, _ = roofline.disk_rates(str(folder))
    per_step = given.batch * given.dim * 2 * len(MODALITIES)
    window = found["window"] or {"block": 0, "batches": 0}
    table(
        [
            ["store", "may allocate", "open", "metadata", "first step after", "most resident", "steps/s", "dev R@1"],
            [
                f"{found['bytes'] / 1e9:.1f} GB",
                f"{max(limit, 10**9) / 1e9:.2f} GB",
                f"{found['open_ms']:.0f} ms",
                f"{found['metadata_s']:.1f} s",
                f"{found['first_step_s']:.1f} s",
                f"{found['resident']['all'] / 1e9:.2f} GB",
                f"{found['steps_per_second']:.1f}",
                f"{found['recall@1']:.3f}",
            ],
        ]
    )
    read = found["steps_per_second"] * per_step
    most = {name: f"{size / 1e9:.2f} GB" for name, size in found["resident"].items()}
    print(
        f"{given.items:,} x 2 items in windows of {window['batches']} batches and blocks of {window['block']} groups, "
        f"each read once: {read / 1e6:.0f} MB/s, {read / disk:.0%} of what the disk gives. Resident before the stores "
        f"were opened {most['before']}, with metadata {most['metadata']}, in training {most['training']}. Written in "
        f"{seconds:.0f} s.\n"
    )

    make_part(part, whole, given.part)
    size = given.part * given.dim * 2 * len(MODALITIES)
    # Windows are a like share of the part as those above are of the whole.
    small = given.memory * given.part / given.items
    kinds = {"in memory": 2 * size / GIB, "windows, cached": small, "windows, not cached": small}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    for _ in range(given.rounds):
        for name, memory in kinds.items():
            if name.endswith("not cached"):
                evict(whole)
            rounds[name].append(child(part, given, memory, None))
    middle = {name: median(one["steps_per_second"] for one in found) for name, found in rounds.items()}
    rows = [["", "steps/s", "of in memory", "processor time of a step", "first step after", "most resident", "dev R@1"]]
    for name, runs in rounds.items():
        rows.append(
            [
                name,
                f"{middle[name]:.1f}",
                f"{middle[name] / middle['in memory']:.0%}",
                f"{median(one['cpu_ms_per_step'] for one in runs):.1f} ms",
                f"{median(one['first_step_s'] for one in runs):.1f} s",
                f"{max(one['resident']['all'] for one in runs) / 1e9:.2f} GB",
                f"{runs[0]['recall@1']:.3f}",
            ]
        )
    table(rows)
    if given.json:
        kept = {"arguments": vars(given), "disk": disk, "written_s": seconds, "whole": found, "part": rounds}
        Path(given.json).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if not given.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
