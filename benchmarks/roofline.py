"""Limits of this machine: matrix products, memory, disk. Other benchmarks report shares of them.

    python benchmarks/roofline.py --threads 1 2

Rates are the best of several repetitions, since a limit is an undisturbed rate: products of square matrices (two
operations for each multiply-add), a copy in memory (bytes read and bytes written), and a file written and read past
the system's cache.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lightcrl.files.local import write_json

# Widths of the matrices; the best counts.
WIDTHS = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
MEMORY_BYTES = 1 << 28
DISK_BYTES = 1 << 29


@dataclass(frozen=True)
class Limits:
    """Rates of one device.

    Attributes:
        device: its name.
        threads: of the CPU.
        float32: operations a second in matrix products.
        bfloat16: the same in bfloat16.
        memory: bytes a second, read and written.
        disk: bytes a second, read past the system's cache; NaN where it was not asked for.
        disk_write: bytes a second, written through to the disk; likewise.
    """

    device: str
    threads: int
    float32: float
    bfloat16: float
    memory: float
    disk: float
    disk_write: float


def best(work: Callable[[], object], repeats: int, device: str) -> float:
    """Return the least seconds of `work`."""
    seconds = []
    for _ in range(repeats + 1):  # the first warms up, and may still be the best
        begun = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def product_rate(dtype: torch.dtype, device: str, repeats: int) -> float:
    """Measure operations per second in products of square matrices."""
    rates = []
    for width in WIDTHS[device]:
        left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(left)

        def work(left: torch.Tensor = left, right: torch.Tensor = right, out: torch.Tensor = out) -> object:
            return torch.mm(left, right, out=out)

        rates.append(2 * width**3 / best(work, repeats, device))
    return max(rates)


def memory_rate(device: str, repeats: int) -> float:
    """Measure bytes read and written per second by a copy larger than the caches."""
    size = MEMORY_BYTES * (8 if device == "cuda" else 1)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * size / best(lambda: target.copy_(source), repeats, device)


def disk_rates(folder: str | None, repeats: int = 3) -> tuple[float, float]:
    """Measure bytes per second read past the system's cache, and written through to the disk."""
    block = mmap.mmap(-1, 1 << 24)  # aligned, as direct reads want it
    block.write(os.urandom(len(block)))
    reads, writes = [], []
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        path = Path(inside) / "block"
        for _ in range(repeats):
            begun = time.perf_counter()
            with path.open("wb") as stream:
                for _ in range(DISK_BYTES // len(block)):
                    stream.write(block)
                os.fsync(stream.fileno())
            writes.append(time.perf_counter() - begun)
            file = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
            with contextlib.suppress(AttributeError):
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            begun = time.perf_counter()
            while os.readv(file, [block]):
                pass
            reads.append(time.perf_counter() - begun)
            os.close(file)
    return DISK_BYTES / min(reads), DISK_BYTES / min(writes)


def measure(threads: int = 1, *, device: str = "cpu", disk: bool = False, repeats: int = 10) -> Limits:
    """Measure the limits of a device, with this many CPU threads; torch's setting is restored."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    read, write = disk_rates(None) if disk else (float("nan"), float("nan"))
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    limits = Limits(
        name,
        threads,
        product_rate(torch.float32, device, repeats),
        product_rate(torch.bfloat16, device, repeats),
        memory_rate(device, repeats),
        read,
        write,
    )
    torch.set_num_threads(before)
    return limits


def processor() -> str:
    """Return the name of the CPU."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(rows: Sequence[Limits]) -> str:
    """Format a Markdown table."""
    lines = [
        "| device | threads | float32, GFLOP/s | bfloat16, GFLOP/s | memory, GB/s | disk read, GB/s | write, GB/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rates = [row.float32, row.bfloat16, row.memory, row.disk, row.disk_write]
        cells = [f"{rate / 1e9:,.1f}" if rate == rate else "" for rate in rates]
        lines.append(f"| {row.device} | {row.threads} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of the CPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", help="write the figures here")
    given = parser.parse_args()
    rows = [measure(threads, device=given.device, disk=True, repeats=given.repeats) for threads in given.threads]
    print(table(rows))
    if given.json:
        write_json(Path(given.json), [asdict(row) for row in rows])


if __name__ == "__main__":
    main()
