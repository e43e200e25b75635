"""The whole way on real photographs and captions, cut down to a few hundred groups."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lightcrl
from lightcrl.checkpoint import Checkpoint
from lightcrl.embedder import Embedder
from lightcrl.encoders import load_encoder
from lightcrl.export import ExportedEmbedder, export_onnx

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


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The recipe for Flickr8k with its own settings, on its first groups."""
    folder = tmp_path_factory.mktemp("flickr8k")
    overrides = [
        f"data.train={cut('train', 120, folder)}",
        f"data.dev={cut('dev', 60, folder)}",
        f"data.root={SHARED / 'data/flickr8k'}",
        f"features.folder={folder / 'features'}",
        "evaluation.baselines=['linear']",
        "evaluation.seeds=[0]",
        "training.epochs=10",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        recipe = lightcrl.load_recipe(Path(__file__).parents[1] / "recipes/flickr8k.toml", overrides, folder / "run")
        recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"zero_shot": None})})
        yield lightcrl.run(recipe)


def captions(done) -> list[dict[str, str]]:
    return [json.loads(line) for line in (done.folder.parent / "dev.jsonl").read_text().splitlines()]


def test_two_real_encoders_meet_in_one_space(done):
    for model in done.models:
        found = model.retrieval
        assert found.counts["image_to_text/queries"] == 60
        assert found.counts["text_to_image/queries"] >= 295
        # 60 pictures: chance is 1.7 %; an untrained head finds about that.
        assert found.metrics["mean_recall@1"] > 0.2
        assert found.interval["mean_recall@1"][0] > 4 * found.chance["mean_recall@1"]
    embedder = lightcrl.load(done.folder)
    line = captions(done)[0]
    picture = embedder.encode([SHARED / "data/flickr8k" / line["image"]], "image")
    right, wrong = embedder.encode([line["caption"], "a diagram of the stock market"], "text") @ picture[0]
    assert right > wrong


def test_an_export_differs_from_its_model_by_what_the_docs_say(done, tmp_path):
    pytest.importorskip("onnxscript")
    embedder = lightcrl.load(done.folder, device="cpu")
    texts = [line["caption"] for line in captions(done)[:100]]
    exported = ExportedEmbedder(export_onnx(embedder, tmp_path, ["text"]), threads=1).encode(texts, "text")
    checkpoint = embedder.checkpoint
    specs = {name: spec.model_copy(update={"dtype": "float32"}) for name, spec in checkpoint.encoders.items()}
    fingerprints = {name: load_encoder(spec).fingerprint for name, spec in specs.items()}
    alike = Checkpoint(checkpoint.method, name="dfe", loss="info_nce", encoders=specs, fingerprints=fingerprints)
    np.testing.assert_allclose(exported, Embedder(alike, device="cpu").encode(texts, "text"), atol=1e-5)
    if checkpoint.encoders["text"].dtype == "bfloat16":  # as the recipe's "auto" is resolved where a CPU has it
        difference = np.abs(exported - embedder.encode(texts, "text")).max(1)
        assert 5e-4 < np.median(difference) < 3e-3
        assert difference.max() < 6e-3
