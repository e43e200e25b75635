"""Encoders that lie on this machine, and better ones that a network would bring."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightcrl.encoders import EncoderSpec, load_encoder
from lightcrl.encoders.files import MODULES
from lightcrl.errors import LightCRLError

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "text": (
        *("qwen3", "gemma3_text", "modernbert", "mpnet", "xlm-roberta", "bert", "new", "nomic_bert", "roberta", "t5"),
        *("siglip", "clip", "distilbert", "gpt2", "llama"),
    ),
    "image": (
        *("dinov3_vit", "dinov2_with_registers", "dinov2", "siglip2", "siglip", "metaclip_2", "clip", "vit", "swin"),
        *("convnextv2", "convnext", "resnet", "mobilenet_v2"),
    ),
    "audio": ("clap", "audio-spectrogram-transformer", "whisper", "wavlm", "hubert", "wav2vec2"),
}
"""Types of models (`model_type` in config.json) by kind of item, better ones first for alignment."""

BETTER: Mapping[str, tuple[str, ...]] = {
    "text": ("sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-base-en-v1.5", "Qwen/Qwen3-Embedding-0.6B"),
    "image": ("facebook/dinov2-base", "google/siglip2-base-patch16-224", "google/vit-base-patch16-224"),
    "audio": ("laion/clap-htsat-unfused", "MIT/ast-finetuned-audioset-10-10-0.4593", "facebook/wav2vec2-base"),
}
"""Encoders on the hub by kind of item, small ones first."""

NEEDED = {"text": "sklearn", "image": "skimage", "audio": "sklearn"}
"""Packages of the built-in encoders."""


@dataclass(frozen=True)
class Candidate:
    """An encoder on this machine.

    Attributes:
        kind: kind of its items.
        model: folder, hub id or `"builtin"`.
        place: words for the place where it was found.
        rank: order among the candidates of its kind; the least is the best.
    """

    kind: str
    model: str
    place: str
    rank: tuple[float, ...]


def find_candidates(folders: Iterable[Path]) -> list[Candidate]:
    """Return the encoders in model folders, in the hub's cache, and the built-in ones; the best of each kind first.

    Args:
        folders: folders of models, or of folders of models.
    """
    found_in = [*((place, str(place), "folder") for place in _model_folders(folders)), *_cached()]
    candidates = [
        candidate for place, model, where in found_in for candidate in _candidates(place, model, f"{where} {place}")
    ]
    candidates += [
        Candidate(kind, "builtin", "built in, without trained weights", (1e9,))
        for kind, package in NEEDED.items()
        if find_spec(package) is not None
    ]
    return sorted(candidates, key=lambda candidate: (candidate.kind, candidate.rank, candidate.model))


def usable(candidate: Candidate, dtype: str = "auto") -> str | None:
    """Load a candidate; return None if it works, otherwise the reason."""
    kind: Any = candidate.kind
    try:
        given: Any = dtype if candidate.model != "builtin" else "float32"
        _ = load_encoder(EncoderSpec(kind=kind, model=candidate.model, dtype=given)).dim
    except (LightCRLError, OSError, ValueError) as error:
        return str(error).splitlines()[0]
    return None


def model_places(data: Path) -> list[Path]:
    """Return the usual folders of models: `models` in the current folder, beside the data, and above both."""
    starts = [Path.cwd(), *Path.cwd().parents[:1], *data.absolute().parents[:3]]
    return list(dict.fromkeys(place for start in starts if (place := start / "models").is_dir()))


def _model_folders(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        if (folder / "config.json").is_file():
            yield folder.absolute()
        elif folder.is_dir():
            yield from (entry.absolute() for entry in sorted(folder.iterdir()) if (entry / "config.json").is_file())


def _cached() -> Iterator[tuple[Path, str, str]]:
    """Yield folder, id and words for every model in the hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(os.environ.get("HF_HUB_CACHE") or HF_HUB_CACHE)
    for repository in sorted(cache.glob("models--*--*")):
        name = "/".join(repository.name.split("--")[1:])
        for reference in (repository / "refs" / "main",):
            if reference.is_file():
                snapshot = repository / "snapshots" / reference.read_text(encoding="utf-8").strip()
                if (snapshot / "config.json").is_file():
                    yield snapshot, name, "hub cache"


def _candidates(folder: Path, model: str, place: str) -> Iterator[Candidate]:
    weights = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    config = _json(folder / "config.json")
    kind_of_model = str(config.get("model_type", ""))
    if not weights or not kind_of_model:
        return
    processor = _json(folder / "preprocessor_config.json") | _json(folder / "processor_config.json")
    able = {
        "text": any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")),
        "image": "image_processor_type" in processor or "image_mean" in processor or "image_processor" in processor,
        "audio": "sampling_rate" in processor or "feature_extractor" in processor,
    }
    for kind, is_able in able.items():
        if is_able:
            family = FAMILIES[kind].index(kind_of_model) if kind_of_model in FAMILIES[kind] else len(FAMILIES[kind])
            # A model that was trained to give one vector per text is the better start, whatever its family.
            sentences = kind == "text" and (folder / MODULES).is_file()
            yield Candidate(kind, model, place, (0.0 if sentences else 1.0, float(family), -float(weights)))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def better_than(chosen: Mapping[str, str], kinds: Sequence[str]) -> list[str]:
    """Return a line for each kind whose chosen model is not among the recommended ones."""
    lines = []
    for kind in dict.fromkeys(kinds):
        model = chosen.get(kind, "")
        if kind in BETTER and not any(name.rpartition("/")[2] in model for name in BETTER[kind]):
            lines.append(f"{kind}: {', '.join(BETTER[kind])}")
    return lines
