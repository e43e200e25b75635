"""Ranks of n pictures and 5 n captions in both directions, by one process and by several.

    python benchmarks/ranking.py --pictures 100000 --processes 1 2 --rounds 1

Each number of processes starts anew, one thread per process. The ranks of all of them must have one digest.
Processor time (the least of all rounds) shows the division of the work on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

CAPTIONS = 5


def measure(pictures: int, dim: int) -> None:
    """Rank, as one of the launched processes, and print seconds, peak memory and digest."""
    import torch
    from evaluation import make_world
    from torch import distributed

    from lightcrl.data.base import digest
    from lightcrl.metrics.retrieval import Retrieval
    from lightcrl.processes import is_main, launched, main_first, wait_for_everyone

    torch.set_num_threads(1)
    vectors, links = make_world(pictures, CAPTIONS, dim)
    retrieval = Retrieval(links)
    with main_first():
        pass
    wait_for_everyone()
    begun, worked = time.perf_counter(), time.process_time()
    ranks = retrieval.per_query(vectors, together=True)
    seconds, own = time.perf_counter() - begun, torch.tensor(time.process_time() - worked)
    if launched() > 1:
        distributed.all_reduce(own, distributed.ReduceOp.MAX)
    if is_main():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        mark = digest(*(counts.tobytes() for counts, _ in ranks.values()))
        print(json.dumps({"seconds": seconds, "cpu": own.item(), "peak": peak, "digest": mark}))


def launch(processes: int, given: argparse.Namespace) -> dict[str, Any]:
    """Run `measure` in a number of processes."""
    words = [__file__, "--measure", "--pictures", str(given.pictures), "--dim", str(given.dim)]
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *start, *words], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"a measurement ended with {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20_000, help="n")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="alternating")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.pictures, given.dim)
        return
    runs: dict[int, list[dict[str, Any]]] = {count: [] for count in given.processes}
    for _ in range(given.rounds):
        for count, done in runs.items():
            done.append(launch(count, given))
    marks = {run["digest"] for done in runs.values() for run in done}
    if len(marks) > 1:
        raise SystemExit(f"ranks differ: {', '.join(sorted(marks))}")
    seconds = {count: median(run["seconds"] for run in done) for count, done in runs.items()}
    print(f"{given.pictures:,} x {CAPTIONS * given.pictures:,} of width {given.dim}, digest {marks.pop()}\n")
    print(
        "| processes | seconds | times as fast | processor s of the busiest | times less | peak memory of a process |"
    )
    print("|---|---|---|---|---|---|")
    first = given.processes[0]
    worked = {count: min(run["cpu"] for run in done) for count, done in runs.items()}
    for count, done in runs.items():
        cells = [str(count), f"{seconds[count]:.1f}", f"{seconds[first] / seconds[count]:.2f}", f"{worked[count]:.1f}"]
        cells += [f"{worked[first] / worked[count]:.2f}", f"{done[0]['peak'] / 2**30:.2f} GiB"]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
