"""The model card: README.md with the hub's metadata, usage, figures, training data and limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from lightcrl import __version__
from lightcrl.encoders.base import EncoderSpec
from lightcrl.lineage import history_table
from lightcrl.sheets import markdown_table

if TYPE_CHECKING:
    from lightcrl.checkpoint import Checkpoint

TAGS = ("lightcrl", "contrastive-learning", "cross-modal-retrieval", "sentence-transformers")

# The hub's task by the kinds of items, the first that fits.
PIPELINES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"text"}), "sentence-similarity"),
    (frozenset({"text", "image"}), "zero-shot-image-classification"),
)
OTHER_PIPELINE = "feature-extraction"

# The hub's task by our task's name, for `model-index`.
HUB_TASKS = {
    "zero_shot": "zero-shot-classification",
    "linear_probe": "feature-extraction",
    "text_similarity": "sentence-similarity",
}


@dataclass(frozen=True)
class CardFacts:
    """Facts of a card that the checkpoint does not hold.

    Attributes:
        place: folder or hub id in the examples.
        results: JSON of each result (`Result.to_json`) by label of its task; by default the figures on dev.
        split: split of `results["retrieval"]`.
        carried: folder in the repository, and licence, of each encoder that is carried along, by modality.
    """

    place: str = "this/folder"
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    split: str = "dev"
    carried: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def model_card(checkpoint: Checkpoint, facts: CardFacts | None = None) -> str:
    """Return the README of a checkpoint."""
    facts = facts or CardFacts()
    if not facts.results and "metrics" in checkpoint.figures:
        split = str(checkpoint.figures.get("split", facts.split))
        facts = CardFacts(facts.place, {"retrieval": checkpoint.figures}, split, facts.carried)
    sections = (_head, _usage, _encoders, _figures, _data, _limits, _parts, _history)
    lines = [line for section in sections for line in section(checkpoint, facts)]
    return f"---\n{_yaml(_metadata(checkpoint, facts))}\n---\n\n" + "\n".join(lines)


def hub_id(spec: EncoderSpec) -> str | None:
    """Return the hub id of an encoder; None for a local folder, a built-in encoder or a class."""
    return None if spec.local or spec.builtin or spec.own else spec.model


def _metadata(checkpoint: Checkpoint, facts: CardFacts) -> ModelCardData:
    kinds = frozenset(spec.kind for spec in checkpoint.encoders.values())
    data = checkpoint.recipe.get("data", {})
    paths = (data.get(key) for key in ("path", "train"))
    datasets = [path for path in paths if path and data.get("source") == "hub" and not Path(path).exists()]
    results = list(_eval_results(checkpoint, facts))
    return ModelCardData(
        library_name="lightcrl",
        license="apache-2.0",
        pipeline_tag=next((tag for fitting, tag in PIPELINES if kinds == fitting), OTHER_PIPELINE),
        tags=list(TAGS),
        base_model=_unique(hub_id(spec) for spec in checkpoint.encoders.values()) or None,
        datasets=_unique(datasets) or None,
        model_name=_name(checkpoint) if results else None,
        eval_results=results or None,
    )


def _yaml(metadata: ModelCardData) -> str:
    """Return the text of `metadata.to_yaml()`, which takes three times as long without libyaml."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    table = metadata.to_dict()  # type: ignore[no-untyped-call]
    return str(yaml.dump(table, Dumper=dumper, sort_keys=False, allow_unicode=True)).strip()


def _eval_results(checkpoint: Checkpoint, facts: CardFacts) -> Iterable[EvalResult]:
    data = str(checkpoint.recipe.get("data", {}).get("path") or _name(checkpoint))
    for label, result in facts.results.items():
        retrieval = label == "retrieval"
        name = Path(data).name if retrieval else label
        for metric, value in result["metrics"].items():
            ends = result.get("interval", {}).get(metric)
            yield EvalResult(
                task_type=HUB_TASKS.get(label, "retrieval" if retrieval else "other"),
                task_name=label,
                dataset_type=name,
                dataset_name=name,
                dataset_split=facts.split if retrieval else None,
                metric_type=metric.rpartition("/")[2],
                metric_name=metric,
                metric_value=value,
                metric_args={"interval": list(ends), "confidence": 0.95} if ends else None,
            )


def _name(checkpoint: Checkpoint) -> str:
    return str(checkpoint.recipe.get("name", "LightCRL model"))


def _unique(names: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name))


def _head(checkpoint: Checkpoint, facts: CardFacts) -> list[str]:
    kept = f", except for the trained weights of {', '.join(checkpoint.towers)}" if checkpoint.towers else ""
    without = [name for name in checkpoint.encoders if name not in facts.carried]
    encoders = f"The encoders of {', '.join(without)} are not part of this checkpoint{kept}." if without else ""
    return [
        f"# {_name(checkpoint)}",
        "",
        f"Maps {', '.join(checkpoint.encoders)} into one space of {checkpoint.method.dim} dimensions "
        f"(method `{checkpoint.name}`, LightCRL {__version__}). {encoders}".rstrip(),
        "",
    ]


def _usage(checkpoint: Checkpoint, facts: CardFacts) -> list[str]:
    first = next(iter(checkpoint.encoders))
    return [
        "```python",
        "import lightcrl",
        "",
        f'embedder = lightcrl.load("{facts.place}")',
        f'vectors = embedder.encode(items, "{first}")  # [N, {checkpoint.method.dim}], unit length',
        "```",
        "",
        "```sh",
        "pip install lightcrl",
        f"lightcrl embed {facts.place} FILES --modality {first} --output vectors.npy",
        "```",
        "",
        "With sentence-transformers, where LightCRL is installed (its class is asked for by name, so the library wants",
        "`trust_remote_code=True`; no code is downloaded):",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        f'model = SentenceTransformer("{facts.place}", trust_remote_code=True)',
        "```",
        "",
    ]


def _encoders(checkpoint: Checkpoint, facts: CardFacts) -> list[str]:
    rows = [
        f"| {name} | {spec.kind} | {_where(spec, facts.carried.get(name))} | {checkpoint.method.modalities[name]} | "
        f"`{checkpoint.fingerprints[name]}` |"
        for name, spec in checkpoint.encoders.items()
        if name in checkpoint.method.modalities
    ]
    header = ["| modality | kind | encoder | tokens | fingerprint |", "|---|---|---|---|---|"]
    return ["## Encoders", "", *header, *rows, ""]


def _where(spec: EncoderSpec, carried: tuple[str, str] | None) -> str:
    """Return the place of an encoder for the reader; of a private folder only its name."""
    if carried is not None:
        return f"`{carried[0]}` in this repository, licence {carried[1]}"
    at = f" at `{spec.revision}`" if spec.revision else ""
    return f"`{Path(spec.model).name if Path(spec.model).is_absolute() else spec.model}`{at}"


def _figures(checkpoint: Checkpoint, facts: CardFacts) -> list[str]:
    lines = ["## Figures", ""]
    for label, result in facts.results.items():
        where = f"On the {facts.split} split." if label == "retrieval" else f"Task `{label}`."
        ends = result.get("interval", {})
        rows = [
            f"| {name} | {value:.3f} | " + ("{:.3f} to {:.3f}".format(*ends[name]) if name in ends else "") + " |"
            for name, value in result["metrics"].items()
        ]
        lines += [where, "", "| metric | value | 95 % interval |", "|---|---|---|", *rows, ""]
    return lines if facts.results else [*lines, "None measured yet.", ""]


def _data(checkpoint: Checkpoint, facts: CardFacts) -> list[str]:
    data = checkpoint.data
    if not data:
        return []
    counts = ", ".join(f"{count:,} {name}" for name, count in data["items"].items())
    return [
        "## Training data",
        "",
        f"{data['groups']:,} groups ({counts}). Digest of the groups and their items: `{data['digest']}`. Two models "
        "with the same digest were trained on the same groups; texts count by content, files by path, size and time."
        + (" Those of the steps before are in the history." if checkpoint.lineage else ""),
        "",
    ]


def _limits(checkpoint: Checkpoint, facts: CardFacts) -> list[str]:
    return [
        "## Limits",
        "",
        "- The encoders stay as they are: the model knows and confuses what they know and confuse, biases included.",
        "  Their licences hold beside this one's.",
        "- Figures hold for data like that of the evaluation, and recall for a gallery of its size: it falls as a",
        "  gallery grows.",
        "- Embeddings can be compared within this model only; scores are no probabilities.",
        "",
    ]


def _parts(checkpoint: Checkpoint, facts: CardFacts) -> list[str]:
    parts = [f"| {part} | {count:,} |" for part, count in checkpoint.parts().items()]
    return ["## Trained parameters", "", "| part | parameters |", "|---|---|", *parts, ""]


def _history(checkpoint: Checkpoint, facts: CardFacts) -> list[str]:
    """Return the ancestors of an extended model."""
    if not checkpoint.lineage:
        return []
    headings = ["model", "change", "date", "data", "figures"]
    return [
        "## History",
        "",
        "Embeddings of modalities that a step left alone are those of its ancestors, bit for bit. "
        "`lightcrl extend DIR --rollback MODEL --output OUT` restores an ancestor.",
        "",
        *markdown_table(headings, history_table(checkpoint.digest, checkpoint.lineage)),
    ]
