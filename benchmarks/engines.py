"""Speed of the encoding engines: this process, one Ray worker, two Ray workers, one thread each.

    python benchmarks/engines.py --data ../shared/data/flickr8k/train.jsonl --model ../shared/models/all-MiniLM-L6-v2

encodes the texts of a table with a transformers model, alternating between the sides, and prints a Markdown table of
medians. The start-up time (of Ray's workers, and loading the model) is measured separately, by encoding one item per
worker; Ray itself is started once, before all rounds. The stores of all sides are compared byte by byte. Two workers
need two cores: a round during which other programs took more than `--noise` of a core, measured between its parts, is
repeated, up to `--minutes` after the start; if all rounds are noisy, all are used.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers yield to all other programs by default, so other load on the machine would slow only them.
os.environ.setdefault("RAY_worker_niceness", "0")

import torch

from lightcrl.data import Dataset, DataSpec, load_dataset
from lightcrl.encoders import EncoderSpec, load_encoder
from lightcrl.features import extract, shards
from lightcrl.features.engines import Crew
from lightcrl.features.engines.ray import connect
from lightcrl.files.local import file_digest, write_json

SHARED = Path(__file__).parents[2] / "shared"
SIDES = {"local": ("local", None), "ray, 1 worker": ("ray", Crew(1)), "ray, 2 workers": ("ray", Crew(2))}


def first(data: Dataset, count: int) -> Dataset:
    """Return the first items of a data set of texts."""
    links = data.links["text"]
    return Dataset(data.groups, data.splits, {"text": data.items["text"][:count]}, {"text": links[links[:, 0] < count]})


def seconds(side: str, spec: EncoderSpec, data: Dataset, per_shard: int, root: Path) -> float:
    """Measure the seconds of one extraction into a fresh folder, with an encoder that has loaded nothing."""
    shutil.rmtree(root, ignore_errors=True)
    engine, crew = SIDES[side]
    shards.shard_size = lambda count: per_shard
    begun = time.perf_counter()
    extract(load_encoder(spec), data, "text", root, workers=1, engine=engine, crew=crew)
    return time.perf_counter() - begun


def digests(root: Path) -> dict[str, str]:
    """Return the digest of every file below a folder, by name."""
    return {path.name: file_digest(path) for path in sorted(root.rglob("*")) if path.is_file()}


def busy(pause: float = 1.0) -> float:
    """Measure the number of cores that other programs use while this one sleeps."""

    def ticks() -> int:
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
        return user + nice + system + sum(rest)

    before = ticks()
    time.sleep(pause)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / pause


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(SHARED / "data/flickr8k/train.jsonl"), help="a table with texts")
    parser.add_argument("--column", default="caption", help="of the table, that has the texts")
    parser.add_argument("--model", default=str(SHARED / "models/all-MiniLM-L6-v2"))
    parser.add_argument("--items", type=int, default=6144)
    parser.add_argument("--shard", type=int, default=128, help="items of a shard")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--noise", type=float, default=0.2, help="cores that other programs may use")
    parser.add_argument("--minutes", type=float, default=5, help="until no new round is begun")
    parser.add_argument("--json", help="write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = first(load_dataset(DataSpec(path=given.data, columns={"text": given.column}), {"text": "text"}), given.items)
    spec = EncoderSpec(kind="text", model=given.model)
    begun = time.perf_counter()
    connect()
    ray_start = time.perf_counter() - begun
    rounds = []
    contents = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "features"
        while sum(r["quiet"] for r in rounds) < given.rounds and time.perf_counter() - begun < given.minutes * 60:
            noise, times = [busy()], {}
            for side, (_, crew) in SIDES.items():
                start = seconds(side, spec, first(data, crew.actors if crew else 1), 1, root)
                whole = seconds(side, spec, data, given.shard, root)
                times[side] = {"start": start, "whole": whole, "work": whole - start}
                contents[side] = digests(root)
                time.sleep(5)  # until Ray has put its workers away
                noise.append(busy())
            rounds.append({"quiet": max(noise) <= given.noise, "noise": noise, "times": times})
            print(*(f"{cores:.1f}" for cores in noise), file=sys.stderr)
    kept = [r for r in rounds if r["quiet"]] or rounds
    equal = all(content == contents["local"] for content in contents.values())
    count = len(data.items["text"])
    rows = [
        {"side": side, **{key: median(r["times"][side][key] for r in kept) for key in ("start", "whole", "work")}}
        for side in SIDES
    ]
    gains = {
        side: {
            key: median(r["times"]["ray, 1 worker"][key] / r["times"][side][key] for r in kept)
            for key in ("work", "whole")
        }
        for side in SIDES
    }
    print(f"{count:,} texts in shards of {given.shard}; {len(kept)} of {len(rounds)} rounds, others used ", end="")
    print(f"{max(max(r['noise']) for r in kept):.1f} cores at most; Ray started in {ray_start:.1f} s; ", end="")
    print(f"stores {'equal to the byte' if equal else 'DIFFER'}.\n")
    print("| engine | starting, s | encoding, s | items/s | against one worker | with starting |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        gain = gains[row["side"]]
        print(
            f"| {row['side']} | {row['start']:.1f} | {row['work']:.1f} | {count / row['work']:,.0f} | "
            f"{gain['work']:.2f} | {gain['whole']:.2f} |"
        )
    if given.json:
        settings = {"items": count, "shard": given.shard, "equal": equal, "ray": ray_start}
        write_json(Path(given.json), {**settings, "rounds": rounds, "rows": rows, "gains": gains})


if __name__ == "__main__":
    main()
