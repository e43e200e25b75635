"""A stand-in of CLIP_benchmark, which needs torchvision: its table of loaders, its data format and what it calls.

`install` puts it in place of the package. Batches, normalisation and figures follow `clip_benchmark.metrics` of 1.6.2.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, default_collate


def write(folder: Path, samples: Sequence[Mapping[str, bytes]], **files: str) -> Path:
    """Write samples by extension as a WebDataset, with text files beside it."""
    (folder / "test").mkdir(parents=True)
    (folder / "test/nshards.txt").write_text("1")
    with tarfile.open(folder / "test/0.tar", "w") as archive:
        for number, sample in enumerate(samples):
            for extension, content in sample.items():
                entry = tarfile.TarInfo(f"{number:06}.{extension}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def _read(folder: Path, transform: Any) -> list[tuple[Any, Any]]:
    samples: dict[str, dict[str, Any]] = {}
    with tarfile.open(folder / "test/0.tar") as archive:
        for entry in archive:
            name, _, extension = entry.name.partition(".")
            stream = archive.extractfile(entry)
            assert stream is not None
            samples.setdefault(name, {})[extension] = stream.read()
    return [
        (
            transform(Image.open(io.BytesIO(sample["png"]))),
            int(sample["cls"]) if "cls" in sample else sample["txt"].decode().splitlines(),
        )
        for sample in samples.values()
    ]


def _retrieval(model: Any, loader: Any, tokenizer: Any, ks: Sequence[int], amp: bool) -> dict[str, float]:
    images, texts, owners = [], [], []
    for pictures, captions in loader:
        first = sum(map(len, images))
        tokens = tokenizer([text for each in captions for text in each]).to("cpu")
        owners += [first + place for place, each in enumerate(captions) for _ in each]
        with torch.no_grad(), torch.autocast("cpu", enabled=amp):
            images.append(normalize(model.encode_image(pictures.to("cpu")), dim=-1))
            texts.append(normalize(model.encode_text(tokens), dim=-1))
    scores = torch.cat(texts) @ torch.cat(images).T
    right = torch.zeros_like(scores, dtype=torch.bool)
    right[torch.arange(len(scores)), owners] = True
    figures = {}
    for name, rows, hits in (("image", scores, right), ("text", scores.T, right.T)):
        for k in ks:
            top = rows.topk(k, dim=1).indices
            figures[f"{name}_retrieval_recall@{k}"] = hits.gather(1, top).any(1).float().mean().item()
    return figures


def _classify(
    model: Any, loader: Any, tokenizer: Any, names: Sequence[str], templates: Sequence[str], amp: bool
) -> Any:
    with torch.no_grad(), torch.autocast("cpu", enabled=amp):
        weights = []
        for name in names:
            prompts = tokenizer([template.format(c=name) for template in templates]).to("cpu")
            mean = normalize(model.encode_text(prompts), dim=-1).mean(0)
            weights.append(mean / mean.norm())
        logits, labels = [], []
        for pictures, label in loader:
            logits.append(100.0 * normalize(model.encode_image(pictures.to("cpu")), dim=-1) @ torch.stack(weights, 1))
            labels.append(label)
    right = torch.cat(logits).float().topk(5).indices == torch.cat(labels)[:, None]
    return {f"acc{k}": right[:, :k].any(1).float().mean().item() for k in (1, 5)}


def _collate(batch: Sequence[Any]) -> Any:
    pictures, others = zip(*batch, strict=True)
    return default_collate(list(pictures)), (default_collate(list(others)) if isinstance(others[0], int) else others)


def install(patch: pytest.MonkeyPatch) -> Any:
    """Put the stand-in in place of the package; return its table of loaders."""
    package, models, cli = (ModuleType(f"clip_benchmark{end}") for end in ("", ".models", ".cli"))
    models.TYPE2FUNC, models.MODEL_TYPES = {"open_clip": None}, ["open_clip"]  # type: ignore[attr-defined]

    def main() -> None:
        parser = argparse.ArgumentParser()
        commands = parser.add_subparsers(dest="which").add_parser("eval")
        for name in ("model", "pretrained", "dataset", "dataset_root", "task", "output"):
            commands.add_argument(f"--{name}")
        commands.add_argument("--model_type", choices=models.MODEL_TYPES)  # type: ignore[attr-defined]
        commands.add_argument("--no_amp", action="store_false", dest="amp")
        commands.add_argument("--recall_k", type=int, nargs="+")
        given = parser.parse_args()
        made = models.TYPE2FUNC[given.model_type](  # type: ignore[attr-defined]
            model_name=given.model, pretrained=given.pretrained, cache_dir=None, device="cpu"
        )
        model, transform, tokenizer = made
        model.eval()
        folder = Path(given.dataset_root)
        loader = DataLoader(_read(folder, transform), batch_size=16, collate_fn=_collate)  # type: ignore[arg-type]
        if given.task == "zeroshot_retrieval":
            metrics = _retrieval(model, loader, tokenizer, given.recall_k, given.amp)
        else:
            names = (folder / "classnames.txt").read_text().splitlines()
            templates = (folder / "zeroshot_classification_templates.txt").read_text().splitlines()
            metrics = _classify(model, loader, tokenizer, names, templates, given.amp)
        Path(given.output).write_text(json.dumps({"dataset": given.dataset, "model": given.model, "metrics": metrics}))

    cli.main = main  # type: ignore[attr-defined]
    package.models, package.cli = models, cli  # type: ignore[attr-defined]
    for module in (package, models, cli):
        patch.setitem(sys.modules, module.__name__, module)
    return models
