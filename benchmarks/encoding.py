"""Encoding against what else one would write: a plain loop over transformers, and sentence-transformers.

    python benchmarks/encoding.py --text MODEL --texts captions.jsonl:caption
    python benchmarks/encoding.py --image MODEL --images FOLDER
    python benchmarks/encoding.py --sound MODEL --sounds FOLDER

Every side encodes the same items in a process of its own, in turn, `--rounds` times; the median counts. The plain loop
is that of the method's published code: float32, batches of `--batch` in the order given, padded to the longest, read
one after another. LightCRL runs with `dtype = "auto"`, and again in float32; it gives all that a feature store keeps
(several layers, sequences), the others one vector. "forward alone" is its own network on batches that are ready: the
rest is what surrounds it. Printed beside: the share of the machine's rate of matrix products, and the least cosine of
an item's features to those in float32.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import roofline
import torch
from torch.nn.functional import cosine_similarity
from torch.utils.flop_counter import FlopCounterMode

from lightcrl.data.base import Item, digest
from lightcrl.data.files import MEDIA
from lightcrl.encoders import Encoder, EncoderSpec, load_encoder
from lightcrl.encoders.audio import read_sound
from lightcrl.encoders.huggingface import HuggingFaceEncoder
from lightcrl.encoders.image import read_image
from lightcrl.features.encoding import batches, encode
from lightcrl.files.local import write_json
from lightcrl.machine import keep_freed_memory

Side = Callable[[], object]
SIDES = ("plain loop", "sentence-transformers", "LightCRL", "LightCRL, float32", "forward alone")


def plain_texts(folder: str, texts: Sequence[str], size: int) -> Side:
    """Batches in the order given, padded to the longest, float32."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    @torch.no_grad()
    def work() -> None:
        for start in range(0, len(texts), size):
            batch = tokenizer(list(texts[start : start + size]), padding=True, truncation=True, return_tensors="pt")
            model(**batch).last_hidden_state.numpy()

    return work


def plain_images(folder: str, paths: Sequence[Path], size: int) -> Side:
    """Pictures opened one after another, float32."""
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def work() -> None:
        for start in range(0, len(paths), size):
            pictures = [read_image(path, 1 << 30) for path in paths[start : start + size]]
            model(**processor(pictures, return_tensors="pt")).last_hidden_state.numpy()

    return work


def plain_sounds(encoder: Encoder, folder: str, paths: Sequence[Path], size: int) -> Side:
    """Sounds opened one after another, padded to the longest, float32."""
    from transformers import AutoFeatureExtractor, AutoModel

    if not isinstance(encoder, HuggingFaceEncoder):
        return plain_patches(encoder, paths, size)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def work() -> None:
        for start in range(0, len(paths), size):
            rate = extractor.sampling_rate
            sounds = [read_sound(path, rate) for path in paths[start : start + size]]
            model(**extractor(sounds, sampling_rate=rate, padding=True, return_tensors="pt")).last_hidden_state.numpy()

    return work


def plain_patches(encoder: Any, paths: Sequence[Path], size: int) -> Side:
    """The same for examples/yamnet.py, whose front end transformers does not have: all patches of a batch at once."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(encoder.folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def work() -> None:
        for start in range(0, len(paths), size):
            patches = torch.cat([encoder.prepare(path) for path in paths[start : start + size]])
            model(patches).pooler_output.numpy()

    return work


def sentence_transformers(folder: str, texts: Sequence[str]) -> Side | None:
    """Its `encode` as it comes; None where it is not installed."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return None
    model = SentenceTransformer(folder, device="cpu")
    return lambda: model.encode(list(texts), show_progress_bar=False)


def features(encoder: Encoder, items: Sequence[Item], workers: int) -> dict[int, Any]:
    """What a feature store would keep, by item."""
    return dict(encode(encoder, items, range(len(items)), "float16", workers=workers))


def ready_batches(encoder: Encoder, items: Sequence[Item]) -> list[list[Any]]:
    """All items, prepared and cut as `encode` would cut them."""
    prepared = sorted((encoder.prepare(item.read()) for item in items), key=encoder.length)
    return [prepared[batch] for batch in batches([encoder.length(one) for one in prepared], encoder)]


def forward(encoder: Encoder, ready: list[list[Any]]) -> Side:
    """The network alone."""

    @torch.inference_mode()
    def work() -> None:
        for batch in ready:
            encoder.encode(batch)

    return work


def operations(work: Side) -> int:
    """Operations in matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def cosines(found: dict[int, Any], exact: dict[int, Any]) -> tuple[float, float]:
    """The least cosine of an item's features, all side by side, and the mean."""
    values = torch.stack(
        [
            cosine_similarity(*(torch.from_numpy(one[place]).double().flatten() for one in (found, exact)), dim=0)
            for place in exact
        ]
    )
    return float(values.min()), float(values.mean())


def make_side(name: str, kind: str, model: str, raw: Sequence[Any], given: argparse.Namespace) -> Side | None:
    """One of `SIDES`, its model loaded; None where it does not apply."""
    items = [Item(digest(str(number)), str(one), one) for number, one in enumerate(raw)]
    encoder = make_encoder(kind, model, given, "auto" if name in ("LightCRL", "forward alone") else "float32")
    if name == "plain loop" and kind == "audio":
        return plain_sounds(encoder, model, raw, given.batch)
    if name == "plain loop":
        return (plain_texts if kind == "text" else plain_images)(model, raw, given.batch)
    if name == "sentence-transformers":
        return sentence_transformers(model, raw) if kind == "text" else None
    if name == "forward alone":
        keep_freed_memory()
        return forward(encoder, ready_batches(encoder, items))
    return lambda: features(encoder, items, given.workers)


def make_encoder(kind: str, model: str, given: argparse.Namespace, dtype: str) -> Encoder:
    """The encoder of one kind of items."""
    options = json.loads(given.options) if kind == "audio" else {}
    return load_encoder(EncoderSpec(kind=kind, model=model, options=options, device="cpu", dtype=dtype))


def serve(pipe: Connection, *task: Any) -> None:
    """A process with one side: sends whether there is one, then its seconds whenever it is asked."""
    torch.set_num_threads(task[-1].threads)
    work = make_side(*task)
    if work is not None:
        work()
    pipe.send(work is not None)
    while work is not None and pipe.recv():
        begun = perf_counter()
        work()
        pipe.send(perf_counter() - begun)


def measure(kind: str, model: str, raw: Sequence[Any], given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every side by round, each in a process of its own, and what is derived from them."""
    context = get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in SIDES:
        mine, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, name, kind, model, raw, given), daemon=True).start()
        if mine.recv():
            pipes[name] = mine
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(given.rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    fast, exact = (make_encoder(kind, model, given, dtype) for dtype in ("auto", "float32"))
    items = [Item(digest(str(number)), str(one), one) for number, one in enumerate(raw)]
    least, mean = cosines(features(fast, items, given.workers), features(exact, items, given.workers))
    return {
        "kind": kind,
        "items": len(items),
        "dtype": fast.spec.dtype if isinstance(fast, HuggingFaceEncoder) else "float32",
        "seconds": seconds,
        "operations": operations(forward(fast, ready_batches(fast, items))),
        "cosine": {"least": least, "mean": mean},
    }


def lines(found: dict[str, Any], limits: roofline.Limits) -> Iterator[str]:
    """Rows of the table: the median, and ratios paired by round."""
    seconds = found["seconds"]

    def ratio(one: str, other: str) -> float:
        return median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))

    for name, times in seconds.items():
        dtype = found["dtype"] if name in ("LightCRL", "forward alone") else "float32"
        share = found["operations"] / median(times) / getattr(limits, dtype)
        cells = [
            found["kind"],
            f"{name} ({dtype})",
            f"{1000 * median(times) / found['items']:.2f}",
            f"{ratio(name, 'LightCRL'):.2f}",
            f"{share:.0%}",
            f"{ratio('forward alone', 'LightCRL'):.0%}" if name == "LightCRL" else "",
            f"{found['cosine']['least']:.5f}" if name == "LightCRL" else "",
        ]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="a text model's folder")
    parser.add_argument("--texts", help="a JSONL file and a column of it: file:column")
    parser.add_argument("--image", help="an image model's folder")
    parser.add_argument("--images", help="a folder of pictures")
    parser.add_argument("--sound", help="a sound model's folder, or package.module:Class")
    parser.add_argument("--sounds", help="a folder of sounds")
    parser.add_argument("--options", default="{}", help="of a sound encoder's class, as JSON")
    parser.add_argument("--items", type=int, default=1000, help="texts; a tenth of it of pictures and sounds")
    parser.add_argument("--batch", type=int, default=64, help="of the plain loop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4, help="threads that decode")
    parser.add_argument("--json", help="write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    draw = random.Random(0)
    tasks: list[tuple[str, str, list[Any]]] = []
    if given.text:
        path, _, column = given.texts.rpartition(":")
        rows = Path(path).read_text(encoding="utf-8").splitlines()
        texts = sorted({json.loads(row)[column] for row in rows})
        tasks.append(("text", given.text, draw.sample(texts, min(given.items, len(texts)))))
    for kind, model, folder in (("image", given.image, given.images), ("audio", given.sound, given.sounds)):
        if model:
            files = sorted(path for path in Path(folder).rglob("*") if MEDIA.get(path.suffix.lower()) == kind)
            tasks.append((kind, model, draw.sample(files, min(given.items // 10, len(files)))))
    limits = roofline.measure(given.threads)
    print("| items | by | ms each | in LightCRL's times | of the roofline | forward alone | least cosine to float32 |")
    print("|---|---|---|---|---|---|---|")
    found = []
    for kind, model, raw in tasks:
        found.append(measure(kind, model, raw, given))
        for line in lines(found[-1], limits):
            print(line, flush=True)
    if given.json:
        write_json(Path(given.json), {"threads": given.threads, "limits": vars(limits), "found": found})


if __name__ == "__main__":
    main()
