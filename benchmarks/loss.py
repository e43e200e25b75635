"""Contrastive losses in pieces compared with the whole matrix: time and memory of value and gradients.

    python benchmarks/loss.py --sizes 1024 4096 16384 --largest 65536

runs every case in a process of its own, alternating between both versions, and prints a Markdown table of medians:
seconds, their ratio, the peak of memory above the inputs, and the rate of the three products of value and gradient as
a share of the machine's rate. `--largest` runs in pieces only: the whole matrix would not fit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median

import roofline
import torch
from torch.nn.functional import logsigmoid, normalize

from lightcrl.files.local import write_json
from lightcrl.losses import LOSSES


def whole_info_nce(left, right, left_groups, right_groups, scale, bias):
    """InfoNCE as in CLIP's code, with several positives per item."""
    positive = left_groups[:, None] == right_groups
    matrix = scale * left @ right.T
    forward = (matrix.logsumexp(1) - (matrix * positive).sum(1) / positive.sum(1)).mean()
    backward = (matrix.logsumexp(0) - (matrix * positive).sum(0) / positive.sum(0)).mean()
    return (forward + backward) / 2


def whole_sigmoid(left, right, left_groups, right_groups, scale, bias):
    """The sigmoid loss as in SigLIP's code, with several positives per item."""
    positive = left_groups[:, None] == right_groups
    matrix = scale * left @ right.T + bias
    return -logsigmoid(torch.where(positive, matrix, -matrix)).sum() / len(left)


SIDES = {
    "pieces": {name: LOSSES.load(name) for name in LOSSES},
    "whole": {"info_nce": whole_info_nce, "sigmoid": whole_sigmoid},
}


def resident() -> int:
    """Return the resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(side: str, name: str, size: int, dim: int, repeats: int) -> dict[str, float]:
    """Return median seconds, peak bytes above the inputs, and the loss."""
    generator = torch.Generator().manual_seed(0)
    left, right = (normalize(torch.randn(size, dim, generator=generator)).requires_grad_() for _ in range(2))
    groups, scale, bias = torch.arange(size), torch.tensor(14.3), torch.tensor(-10.0)
    start, peak, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds = []
    for _ in range(repeats):
        left.grad = right.grad = None
        begun = time.perf_counter()
        loss = SIDES[side][name](left, right, groups, groups, scale, bias)
        loss.backward()
        seconds.append(time.perf_counter() - begun)
    done.set()
    watcher.join()
    return {"seconds": median(seconds), "bytes": peak[0] - start, "loss": loss.item()}


def apart(side: str, name: str, size: int, dim: int, repeats: int) -> dict[str, float]:
    """Run `measure` in a fresh process."""
    call = [sys.executable, __file__, "--one", side, name, str(size), str(dim), str(repeats)]
    return json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--largest", type=int, default=65536)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        side, name, *numbers = given.one
        print(json.dumps(measure(side, name, *map(int, numbers))))
        return
    rows = []
    rate = roofline.measure(torch.get_num_threads()).float32
    print(
        f"| loss | batch x {given.dim} | whole, s | in pieces, s | ratio | whole, MiB | in pieces, MiB | difference | "
        "of the roofline |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in LOSSES:
        for size in [*given.sizes, given.largest]:
            repeats = given.repeats if size < given.largest else 1
            sides = {"pieces": apart("pieces", name, size, given.dim, repeats)}
            if size < given.largest:
                sides["whole"] = apart("whole", name, size, given.dim, repeats)
            rows.append({"loss": name, "batch": size, **sides})
            share = 6 * size**2 * given.dim / sides["pieces"]["seconds"] / rate
            print(f"{line(name, size, sides['pieces'], sides.get('whole'))} {share:.0%} |", flush=True)
    if given.json:
        write_json(Path(given.json), {"dim": given.dim, "threads": torch.get_num_threads(), "rows": rows})


def line(name: str, size: int, pieces: dict[str, float], whole: dict[str, float] | None) -> str:
    """Format a row of the table."""
    seconds, size_of = f"{pieces['seconds']:.3f}", f"{pieces['bytes'] / 2**20:,.0f}"
    if whole is None:
        return f"| {name} | {size:,} | | {seconds} | | | {size_of} | |"
    ratio, error = pieces["seconds"] / whole["seconds"], abs(pieces["loss"] / whole["loss"] - 1)
    return (
        f"| {name} | {size:,} | {whole['seconds']:.3f} | {seconds} | {ratio:.2f} | {whole['bytes'] / 2**20:,.0f} | "
        f"{size_of} | {error:.0e} |"
    )


if __name__ == "__main__":
    main()
