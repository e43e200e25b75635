"""Speed of encoding, compared with a plain loop over transformers and with sentence-transformers.

    python benchmarks/encoding.py --text MODEL --texts captions.jsonl:caption
    python benchmarks/encoding.py --image MODEL --images FOLDER
    python benchmarks/encoding.py --sound MODEL --sounds FOLDER

Every side encodes the same items in a process of its own; the sides alternate for `--rounds` rounds, and medians are
reported. The plain loop is that of the method's published code: float32, batches of `--batch` in the given order,
padded to the longest, read one after another. LightCRL runs with `dtype = "auto"`, and again in float32; it returns
the content of a feature store (several layers, sequences), the others one vector. The "forward alone" column is the
time of the network on prepared batches; the rest is overhead. The table also has the share of the machine's rate of
matrix products, and the least cosine of an item's features to the float32 features.
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
    """Encode texts in batches in the given order, padded to the longest, in float32."""
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
    """Encode pictures, opened one after another, in float32."""
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
    """Encode sounds, opened one after another and padded to the longest, in float32."""
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
    """Encode sounds with examples/yamnet.py, all patches of a batch at once; transformers lacks its front end."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(encoder.folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def work() -> None:
        for start in range(0, len(paths), size):
            patches = torch.cat([encoder.prepare(path) for path in paths[start : start + size]])
            model(patches).pooler_output.numpy()

    return work


def sentence_transformers(folder: str, texts: Sequence[str]) -> Side | None:
    """Return the unmodified `encode` of sentence-transformers, or None if it is not installed."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return None
    model = SentenceTransformer(folder, device="cpu")
    return lambda: model.encode(list(texts), show_progress_bar=False)


def features(encoder: Encoder, items: Sequence[Item], workers: int) -> dict[int, Any]:
    """Return the content of a feature store, by item."""
    return dict(encode(encoder, items, range(len(items)), "float16", workers=workers))


def ready_batches(encoder: Encoder, items: Sequence[Item]) -> list[list[Any]]:
    """Return all items, prepared and batched as by `encode`."""
    prepared = sorted((encoder.prepare(item.read()) for item in items), key=encoder.length)
    return [prepared[batch] for batch in batches([encoder.length(item) for item in prepared], encoder)]


def forward(encoder: Encoder, ready: list[list[Any]]) -> Side:
    """Return the forward pass on prepared batches."""

    @torch.inference_mode()
    def work() -> None:
        for batch in ready:
            encoder.encode(batch)

    return work


def operations(work: Side) -> int:
    """Count the operations in matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def cosines(features: dict[int, Any], exact: dict[int, Any]) -> tuple[float, float]:
    """Return the least and the mean cosine between the concatenated features of an item."""
    values = torch.stack(
        [
            cosine_similarity(*(torch.from_numpy(side[place]).double().flatten() for side in (features, exact)), dim=0)
            for place in exact
        ]
    )
    return float(values.min()), float(values.mean())


def make_side(name: str, kind: str, model: str, raw: Sequence[Any], given: argparse.Namespace) -> Side | None:
    """Return the work of one of `SIDES` with its model loaded, or None if it does not apply to this kind."""
    items = [Item(digest(str(number)), str(value), value) for number, value in enumerate(raw)]
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
    """Load the encoder of one kind of items."""
    options = json.loads(given.options) if kind == "audio" else {}
    return load_encoder(EncoderSpec(kind=kind, model=model, options=options, device="cpu", dtype=dtype))


def serve(pipe: Connection, *task: Any) -> None:
    """Run one side in this process: send its availability, then the seconds of each requested round."""
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
    """Measure the seconds of every side by round, each in a process of its own, and the derived figures."""
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


def lines(figures: dict[str, Any], limits: roofline.Limits) -> Iterator[str]:
    """Return the rows of the table: medians, and ratios paired by round."""
    seconds = figures["seconds"]

    def ratio(one: str, other: str) -> float:
        return median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))

    for name, times in seconds.items():
        dtype = figures["dtype"] if name in ("LightCRL", "forward alone") else "float32"
        share = figures["operations"] / median(times) / getattr(limits, dtype)
        cells = [
            figures["kind"],
            f"{name} ({dtype})",
            f"{1000 * median(times) / figures['items']:.2f}",
            f"{ratio(name, 'LightCRL'):.2f}",
            f"{share:.0%}",
            f"{ratio('forward alone', 'LightCRL'):.0%}" if name == "LightCRL" else "",
            f"{figures['cosine']['least']:.5f}" if name == "LightCRL" else "",
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
    print(
        "| items | program | ms each | multiple of LightCRL's time | share of the roofline | share of the forward pass "
        "| least cosine to float32 |"
    )
    print("|---|---|---|---|---|---|---|")
    figures = []
    for kind, model, raw in tasks:
        figures.append(measure(kind, model, raw, given))
        for line in lines(figures[-1], limits):
            print(line, flush=True)
    if given.json:
        write_json(Path(given.json), {"threads": given.threads, "limits": vars(limits), "figures": figures})


if __name__ == "__main__":
    main()
