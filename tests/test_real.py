"""The whole way on real photographs and captions, cut down to a few hundred groups."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lightcrl

SHARED = Path(__file__).parents[2] / "shared"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not (SHARED / "data/flickr8k").is_dir(), reason="no shared folder with Flickr8k beside the project"
    ),
]


def cut(split: str, groups: int, folder: Path) -> Path:
    """The first groups of a split, five lines each, with paths that still lead to the pictures."""
    lines = [json.loads(line) for line in (SHARED / f"data/flickr8k/{split}.jsonl").read_text().splitlines()]
    chosen = set(list(dict.fromkeys(line["image"] for line in lines))[:groups])
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line["image"] in chosen))
    return path


def test_two_real_encoders_meet_in_one_space(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    overrides = [
        f"data.train={cut('train', 240, tmp_path)}",
        f"data.dev={cut('dev', 80, tmp_path)}",
        f"data.root={SHARED / 'data/flickr8k'}",
        f"features.folder={tmp_path / 'features'}",
        "evaluation.baselines=['linear']",
        "evaluation.seeds=[0]",
        "training.epochs=15",
    ]
    recipe = lightcrl.load_recipe(Path(__file__).parents[1] / "recipes/flickr8k.toml", overrides, tmp_path / "run")
    recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"zero_shot": None})})
    done = lightcrl.run(recipe)
    for model in done.models:
        found = model.retrieval
        assert found.counts["image_to_text/queries"] == 80
        assert found.counts["text_to_image/queries"] >= 395
        # 80 pictures: chance is 1.3 %; an untrained head finds about that.
        assert found.metrics["mean_recall@1"] > 0.2
        assert found.interval["mean_recall@1"][0] > 4 * found.chance["mean_recall@1"]
    embedder = lightcrl.load(tmp_path / "run")
    line = json.loads((tmp_path / "dev.jsonl").read_text().splitlines()[0])
    picture = embedder.encode([SHARED / "data/flickr8k" / line["image"]], "image")
    right, wrong = embedder.encode([line["caption"], "a diagram of the stock market"], "text") @ picture[0]
    assert right > wrong
