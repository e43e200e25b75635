"""Everything to be known of a GPU in one command of at most eight minutes: tests marked `gpu`, then speed.

    python benchmarks/gpu.py --json gpu.json

Encoders of the size of ViT-B/16 and BERT-base with random weights, in bfloat16, plain and with `torch.compile`: items
per second on prepared batches, transfers included, and the share of the device's rate of bfloat16 products. The DFE
on pooled features and on 197 tokens per item: pairs per second, with features read from the host's memory as in
training. InfoNCE of 65,536 pairs: seconds and peak memory. Exact search of ten million vectors of 256 numbers.
The file is written after every row; what does not fit into `--seconds` is left out and named. `--device cpu --small`
runs all of it on a CPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import roofline
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from lightcrl.encoders import EncoderSpec, load_encoder
from lightcrl.encoders.huggingface import HuggingFaceEncoder
from lightcrl.files.local import write_json
from lightcrl.index.search import nearest
from lightcrl.losses import info_nce
from lightcrl.methods import Step
from lightcrl.methods.spec import make_method
from lightcrl.tokens import TokenBatch, TokenSpec

WORDS = [f"word{number}" for number in range(1000)]


def vit(folder: Path, small: bool) -> HuggingFaceEncoder:
    """Make a ViT-B/16 with random weights."""
    from transformers import ViTConfig, ViTImageProcessor

    smaller = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768} if small else {}
    ViTConfig(**smaller).save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    return opened("image", folder)


def bert(folder: Path, small: bool) -> HuggingFaceEncoder:
    """Make a BERT-base with random weights and a made-up vocabulary."""
    from transformers import BertConfig, BertTokenizerFast

    smaller = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768} if small else {}
    BertConfig(**smaller).save_pretrained(folder)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder)
    return opened("text", folder)


def opened(kind: str, folder: Path) -> HuggingFaceEncoder:
    """Load an encoder on the measured device, in bfloat16."""
    spec = EncoderSpec(kind=kind, model=str(folder), weights="random", dtype="bfloat16", device=DEVICE)
    encoder = load_encoder(spec)
    assert isinstance(encoder, HuggingFaceEncoder)
    return encoder


def items(kind: str, count: int) -> list[Any]:
    """Return pictures of noise, or texts of 64 tokens."""
    generator = np.random.default_rng(0)
    if kind == "image":
        return [Image.fromarray(generator.integers(0, 256, (224, 224, 3), dtype=np.uint8)) for _ in range(count)]
    return [" ".join(generator.choice(WORDS, 62)) for _ in range(count)]


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median seconds, with the device synchronised."""
    durations = []
    for _ in range(repeats + 2):
        begun = time.perf_counter()
        work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - begun)
    return median(durations[2:])


def encoding(limits: roofline.Limits, small: bool, repeats: int) -> Iterator[dict[str, Any]]:
    """Measure both encoders, plain and compiled."""
    size = 8 if small else 256
    for name, make in (("ViT-B/16", vit), ("BERT-base, 64 tokens", bert)):
        with tempfile.TemporaryDirectory() as folder:
            encoder = make(Path(folder), small)
            prepared = [encoder.prepare(item) for item in items(encoder.kind, size)]
            with FlopCounterMode(display=False) as counter:
                encoder.encode(prepared)
            for compiled in (False,) if small else (False, True):
                if compiled:
                    encoder.loaded.network.forward = torch.compile(encoder.loaded.network.forward, dynamic=False)
                duration = seconds(lambda encoder=encoder, prepared=prepared: encoder.encode(prepared), repeats)
                share = counter.get_total_flops() / duration / limits.bfloat16
                how = "torch.compile" if compiled else "plain"
                yield {"what": f"encoding, {name}, {how}", "rate": size / duration, "unit": "items/s", "share": share}


def training(limits: roofline.Limits, small: bool, repeats: int) -> Iterator[dict[str, Any]]:
    """Measure steps of the DFE, with features read from the host's memory."""
    size = 64 if small else 4096
    for name, spec in (("pooled features", TokenSpec(768, 6)), ("197 tokens", TokenSpec(768, 6, True))):
        method = make_method("dfe", {"image": spec, "text": spec}, {}, "info_nce").to(DEVICE)
        optimizer = torch.optim.AdamW(method.parameters())
        tokens = 6 + 197 * spec.sequence
        stored = {
            modality: TokenBatch.full(torch.randn(size, tokens, 768, dtype=torch.float16))
            for modality in ("image", "text")
        }
        if DEVICE == "cuda":
            stored = {m: TokenBatch(tokens.values.pin_memory(), tokens.mask) for m, tokens in stored.items()}
        groups = torch.arange(size, device=DEVICE)

        def work(method=method, optimizer=optimizer, stored=stored, groups=groups) -> None:
            optimizer.zero_grad()
            with torch.autocast(DEVICE, torch.bfloat16):
                embeddings = {modality: method(modality, batch.to(DEVICE)) for modality, batch in stored.items()}
            step = Step({}, dict.fromkeys(embeddings, groups))
            method.objective(info_nce, embeddings, step).backward()
            optimizer.step()

        with FlopCounterMode(display=False) as counter:
            work()
        duration = seconds(work, repeats)
        share = counter.get_total_flops() / duration / limits.bfloat16
        yield {"what": f"training, DFE, {name}", "rate": size / duration, "unit": "pairs/s", "share": share}


def loss(limits: roofline.Limits, small: bool, repeats: int) -> Iterator[dict[str, Any]]:
    """Measure value and gradient of InfoNCE."""
    size = 1024 if small else 65_536
    left, right = (
        torch.nn.functional.normalize(torch.randn(size, 256, device=DEVICE)).requires_grad_() for _ in range(2)
    )
    groups, scale = torch.arange(size, device=DEVICE), torch.tensor(14.3, device=DEVICE)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()

    def work() -> None:
        left.grad = right.grad = None
        info_nce(left, right, groups, groups, scale).backward()

    duration = seconds(work, repeats)
    # Four products: the logits, the logits again in the backward pass, and both gradients.
    share = 4 * 2 * size**2 * 256 / duration / limits.float32
    peak = torch.cuda.max_memory_allocated() - before if DEVICE == "cuda" else None
    figures = {"rate": size / duration, "unit": "pairs/s", "share": share, "peak": peak}
    yield {"what": f"InfoNCE, {size:,} pairs", **figures}


def searching(limits: roofline.Limits, small: bool, repeats: int) -> Iterator[dict[str, Any]]:
    """Measure exact search of float16 vectors for the ten nearest, one query and 64 at a time."""
    count = 20_000 if small else 10_000_000
    # Made piece by piece: the float32 numbers of all would take 10 GB.
    piece = torch.empty(min(count, 1_000_000), 256, device=DEVICE)
    vectors = torch.empty(count, 256, dtype=torch.float16, device=DEVICE)
    for part in vectors.split(len(piece)):
        part.copy_(torch.nn.functional.normalize(piece[: len(part)].normal_()))
    for queries in (1, 64):
        asked = torch.nn.functional.normalize(torch.randn(queries, 256))
        duration = seconds(lambda asked=asked: nearest(asked, vectors, 10), repeats)
        # One query reads every vector once; a batch multiplies.
        limit = limits.memory / (vectors.numel() * 2) if queries == 1 else limits.float32 / (2 * vectors.numel())
        figures = {"rate": queries / duration, "unit": "queries/s", "share": queries / duration / limit}
        yield {"what": f"search of {count:,} x 256, {queries} at a time", **figures}


def tests() -> dict[str, Any]:
    """Run the tests marked `gpu`; return the exit code and the last line."""
    folder = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", str(folder / "tests/test_gpu.py")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180)
    print(done.stdout[-4000:], flush=True)
    return {"exit_code": done.returncode, "summary": done.stdout.strip().splitlines()[-1]}


def main() -> None:
    global DEVICE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="small shapes, to see that all of it runs")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=450, help="time for all of it; what does not fit is left out")
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    parser.add_argument("--json", help="write the figures here, after every row")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "no GPU here; --device cpu --small shows that all of it runs.\n")
    DEVICE, begun = given.device, time.perf_counter()
    tested = None if given.no_tests else tests()
    limits = roofline.measure(device=DEVICE, repeats=given.repeats)
    print(roofline.table([limits]))
    print("\n| what | rate | of the device's limit | peak MiB |")
    print("|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for part in (encoding, training, loss, searching):
        if time.perf_counter() - begun > given.seconds:
            rows.append({"what": part.__name__, "left_out": f"{given.seconds:.0f} s were over"})
            continue
        for row in part(limits, given.small, given.repeats):
            rows.append(row)
            peak = f"{row['peak'] / 2**20:,.0f}" if row.get("peak") is not None else ""
            print(f"| {row['what']} | {row['rate']:,.0f} {row['unit']} | {row['share']:.0%} | {peak} |", flush=True)
            if given.json:
                took = time.perf_counter() - begun
                known = {name: value for name, value in vars(limits).items() if value == value}  # the disk is not asked
                content = {"tests": tested, "limits": known, "rows": rows, "seconds": round(took, 1)}
                write_json(Path(given.json), content)


DEVICE = "cuda"

if __name__ == "__main__":
    main()
