"""Writes the golden files of a format: `python tests/golden/make.py`, once for each new format, into an empty place.

What is written stays as it is: later versions must read it. A new format gets new files beside the old ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from lightcrl.checkpoint import Checkpoint  # noqa: E402
from lightcrl.embedder import Embedder  # noqa: E402
from lightcrl.encoders import load_encoder  # noqa: E402
from lightcrl.encoders.base import EncoderSpec  # noqa: E402
from lightcrl.encoders.tower import Tuned, TuningSpec  # noqa: E402
from lightcrl.export import export_onnx  # noqa: E402
from lightcrl.features import extract  # noqa: E402
from lightcrl.growth.history import make_step  # noqa: E402
from lightcrl.index import Index, VectorIndex  # noqa: E402
from lightcrl.methods import Method  # noqa: E402
from lightcrl.methods.classifier import NAME  # noqa: E402
from lightcrl.methods.hubs import Hubs  # noqa: E402
from lightcrl.methods.spec import make_method  # noqa: E402
from lightcrl.studies.cells import Cell, write_cell  # noqa: E402
from lightcrl.tokens import TokenBatch, TokenSpec  # noqa: E402
from worlds import Digits, numbers  # noqa: E402

SPECS = {"image": TokenSpec(6, 2), "text": TokenSpec(5, 1, True)}


def waves(*shape: int) -> torch.Tensor:
    """Numbers that are the same on every machine."""
    return torch.sin(torch.arange(int(np.prod(shape)), dtype=torch.float32) * 1.7 + len(shape)).reshape(shape)


def tokens(modality: str) -> TokenBatch:
    """What the golden models are asked to embed."""
    return TokenBatch.full(waves(3, 2, 6) if modality == "image" else waves(3, 4, 5))


def model(name: str, options: dict[str, object], loss: str = "info_nce") -> Method:
    """A method with weights that no random generator draws."""
    method = make_method(name, SPECS, options, loss)
    with torch.no_grad():
        for number, tensor in enumerate(method.state_dict().values()):
            if tensor.is_floating_point() and tensor.ndim:
                tensor.copy_(waves(*tensor.shape) * 0.3 + (1.0 if tensor.ndim == 1 and number % 2 else 0.0))
    return method.eval()


def checkpoint(method: Method, name: str, loss: str = "info_nce", **given: object) -> Checkpoint:
    """The method as a checkpoint of made-up encoders."""
    return Checkpoint(
        method,
        name=name,
        loss=loss,
        encoders={
            "image": EncoderSpec(kind="image", model="org/vit"),
            "text": EncoderSpec(kind="text", model="org/bert"),
        },
        fingerprints={"image": "f1", "text": "f2"},
        recipe={"name": "golden"},
        figures={"split": "dev", "metrics": {"mean_recall@1": 0.25}},
        **given,  # type: ignore[arg-type]
    )


def checkpoints() -> dict[str, Checkpoint]:
    """By name of the folder, one of every kind there is."""
    small = {"dim": 8, "heads": 2, "feedforward": 12}
    tower = Tuned(TuningSpec(blocks=1), {"layer.weight": waves(2, 2)})
    below = make_method("linear", SPECS, {"dim": 4}, "info_nce").options.model_dump(mode="json")
    classifier = {"method": "linear", "below": below, "classes": ("cat", "dog")}
    return {
        "checkpoint-1-dfe": checkpoint(model("dfe", small), "dfe"),
        "checkpoint-1-linear-sigmoid": checkpoint(model("linear", {"dim": 4}, "sigmoid"), "linear", "sigmoid"),
        "checkpoint-1-classifier": checkpoint(model(NAME, classifier), NAME),
        "checkpoint-1-grown": checkpoint(
            model("linear", {"dim": 4}), "linear", lineage=[{"from": "0" * 32, "added": ["text"]}]
        ),
        "checkpoint-2-towers": checkpoint(model("linear", {"dim": 4}), "linear", towers={"text": tower}),
        "checkpoint-3-extended": extended(tower),
        "checkpoint-4-hubs": checkpoint(corrected(model("linear", {"dim": 4})), "linear"),
        "checkpoint-5-dfe": checkpoint(scaled(model("dfe", small)), "dfe"),
    }


def corrected(method: Method) -> Method:
    """The method with a correction for hubs."""
    method.hubs = Hubs.measured({"image": normalize(waves(9, 4), dim=-1), "text": normalize(waves(8, 4), dim=-1)})
    return method


def scaled(method: Method) -> Method:
    """The method with other deviations of a slot in its second part than in the first."""
    for modality in SPECS:
        method.stem(modality).deviation.copy_(1.5 + waves(*method.stem(modality).deviation.shape))
    return method


def extended(tower: Tuned) -> Checkpoint:
    """A model whose encoder of texts, a tower before, was replaced."""
    method = model("linear", {"dim": 4})
    step, former = make_step(checkpoint(method, "linear", towers={"text": tower}), "replaced", ["text"], data="d" * 32)
    return checkpoint(method, "linear", lineage=[step | {"date": "2026-11-28T20:00:00+00:00"}], former=former)


def cell(folder: Path) -> Cell:
    """A finished training of a comparison, with made-up figures."""
    ranks = np.array([[0, 0, 5], [1, 0, 5], [0, 1, 5]])
    queries = {name: (ranks, np.arange(3)) for name in ("image_to_text", "text_to_image", "zero_shot")}
    plan = {"batch_size": 2, "epochs": 3, "steps": 6, "steps_done": 6}
    return Cell(folder, 1, 3, plan, parameters=40, seconds=1.5, memory=None, dev=0.5, queries=queries)


def builtin_embedder() -> Embedder:
    """Pictures by the built-in descriptor through a linear map."""
    spec = EncoderSpec(kind="image", model="builtin")
    encoder = load_encoder(spec)
    specs = {"image": TokenSpec(encoder.dim, encoder.slots, encoder.sequence), "text": TokenSpec(3)}
    method = make_method("linear", specs, {"dim": 4, "standardise": False}, "info_nce")
    with torch.no_grad():
        for tensor in method.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim:
                tensor.copy_(waves(*tensor.shape))
    found = checkpoint(method, "linear")
    found.encoders["image"], found.fingerprints["image"] = spec, encoder.fingerprint
    return Embedder(found, device="cpu")


def main() -> None:
    """Write what is not there yet."""
    for name, made in checkpoints().items():
        if not (HERE / name).exists():
            made.save(HERE / name)
            vectors = {modality: made.method(modality, tokens(modality)).detach().tolist() for modality in SPECS}
            (HERE / f"{name}.json").write_text(json.dumps(vectors) + "\n")
    if not (HERE / "store-1").exists():
        store = extract(Digits(), numbers(12), "text", HERE).store
        store.folder.rename(HERE / "store-1")
    if not (HERE / "index-1").exists():
        VectorIndex(np.eye(4, dtype=np.float16), ["a", "b's", "ü", "d"]).save(HERE / "index-1")
    if not (HERE / "index-2").exists():
        index = Index.create(HERE / "index-2", builtin_embedder())
        metadata = [{"year": 2000 + number, "note": "it's" if number else None} for number in range(4)]
        ids = ["a", "b's", "ü", "d"]
        index.add_vectors(ids, np.eye(4), "image", fingerprint=index.fingerprint, metadata=metadata)
        index.remove(["d"])
    if not (HERE / "cell-1").exists():
        (HERE / "cell-1").mkdir()
        write_cell(cell(HERE / "cell-1"), "measured")
    if not (HERE / "onnx-1").exists():
        export_onnx(builtin_embedder(), HERE / "onnx-1", ["image"])


if __name__ == "__main__":
    main()
