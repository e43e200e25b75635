"""Small tasks in mteb's own formats, in local folders: what `lightcrl evaluate` measures, written as mteb reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightcrl.data import Dataset

FOLDER = "MTEB_TASKS"
PROMPT = "a picture of a {}"


def _readme(folder: Path, files: Mapping[str, str]) -> None:
    """Write the configurations of a data set as the hub has them, each with its file of the split `test`."""
    lines = [
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {path}\n" for name, path in files.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(lines) + "---\n")


def _image(path: Path | str) -> dict[str, Any]:
    return {"path": None, "bytes": Path(path).read_bytes()}


def write_retrieval(folder: Path, data: Dataset, query: str, document: str) -> None:
    """Write corpus, queries and qrels, one way between two modalities; every item stands once."""
    import datasets

    columns = {"image": datasets.Image(), "text": datasets.Value("string")}
    _readme(folder, {name: f"{name}.parquet" for name in ("corpus", "queries", "qrels")})
    for name, modality in (("queries", query), ("corpus", document)):
        kept = sorted({item for item, _ in data.links[modality].tolist()})
        raw = [data.items[modality][item].read() for item in kept]
        column = [_image(each) for each in raw] if modality == "image" else raw
        table = {"id": [f"{modality}{item}" for item in kept], modality: column}
        features = datasets.Features({"id": datasets.Value("string"), modality: columns[modality]})
        datasets.Dataset.from_dict(table, features=features).to_parquet(folder / f"{name}.parquet")
    groups: dict[int, list[int]] = {}
    for item, group in data.links[document].tolist():
        groups.setdefault(group, []).append(item)
    pairs = {
        (f"{query}{item}", f"{document}{other}")
        for item, group in data.links[query].tolist()
        for other in groups[group]
    }
    left, right = zip(*sorted(pairs), strict=True)
    table = {"query-id": left, "corpus-id": right, "score": [1] * len(left)}
    datasets.Dataset.from_dict(table).to_parquet(folder / "qrels.parquet")


def write_classes(folder: Path, classes: Path) -> None:
    """Write pictures and labels."""
    import datasets

    names = sorted(path.name for path in classes.iterdir())
    files = [(path, label) for label, name in enumerate(names) for path in sorted((classes / name).iterdir())]
    table = {"image": [_image(path) for path, _ in files], "label": [label for _, label in files]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    _readme(folder, {"default": "test.parquet"})
    datasets.Dataset.from_dict(table, features=features).to_parquet(folder / "test.parquet")
    (folder / "classes.json").write_text(json.dumps(names))


def write_pairs(folder: Path, pairs: list[Mapping[str, Any]]) -> None:
    """Write scored pairs of texts with STS-B's columns."""
    import datasets

    _readme(folder, {"default": "test.parquet"})
    rows = [{"sentence1": row["text1"], "sentence2": row["text2"], "score": row["score"]} for row in pairs]
    datasets.Dataset.from_list(rows).to_parquet(folder / "test.parquet")


def _metadata(name: str, folder: str, kind: str, category: str, modalities: list[str], score: str) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        dataset={"path": str(Path(os.environ[FOLDER]) / folder), "revision": "1"},
        name=name,
        description=name,
        type=kind,
        modalities=modalities,
        category=category,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
    )


def _retrieval(name: str, folder: str, category: str) -> Any:
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    described = _metadata(name, folder, "Any2AnyRetrieval", category, ["text", "image"], "hit_rate_at_1")
    return type(name, (AbsTaskRetrieval,), {"metadata": described})()


def text_to_image() -> Any:
    return _retrieval("LocalTextToImage", "t2i", "t2i")


def image_to_text() -> Any:
    return _retrieval("LocalImageToText", "i2t", "i2t")


def zero_shot() -> Any:
    from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

    described = _metadata("LocalZeroShot", "classes", "ZeroShotClassification", "i2t", ["image", "text"], "accuracy")
    names = json.loads((Path(os.environ[FOLDER]) / "classes/classes.json").read_text())
    body = {"metadata": described, "get_candidate_labels": lambda self: [PROMPT.format(name) for name in names]}
    return type("LocalZeroShot", (AbsTaskZeroShotClassification,), body)()


def pairs() -> Any:
    from mteb.abstasks.sts import AbsTaskSTS

    described = _metadata("LocalSTSB", "pairs", "STS", "t2t", ["text"], "cosine_spearman")
    return type("LocalSTSB", (AbsTaskSTS,), {"metadata": described})()
