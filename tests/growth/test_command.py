"""`lightcrl extend` as scripts use it, and its recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lightcrl
from growing import base, recipe
from lightcrl.cli import app
from lightcrl.errors import RecipeError
from lightcrl.growth.spec import GrowthRecipe

RECIPE = """
partners = ["text"]
[data]
source = "synthetic"
options = { groups = 60 }
dev_fraction = 0.3
[encoders.audio]
kind = "audio"
model = "builtin"
options = { segments = 2 }
[features]
folder = "features"
[training]
epochs = 2
batch_size = 16
tensorboard = false
[evaluation]
others = ["image"]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("command")
    base(place)
    (place / "sound.toml").write_text(RECIPE)
    return place


def call(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def test_a_modality_is_added_and_removed(place, tmp_path):
    grown, smaller = tmp_path / "grown", tmp_path / "smaller"
    printed = call("extend", place / "dfe", place / "sound.toml", "--output", grown, "--set", "seed=3")
    assert "audio to image (emergent)" in printed
    found = re.search(r"unchanged, bit for bit: (\d+) tensors .* embeddings of image, text", printed)
    assert found is not None
    assert int(found[1]) == len(lightcrl.load_checkpoint(place / "dfe").method.state_dict())
    assert json.loads((grown / "recipe.json").read_text())["seed"] == 3
    assert "audio" in call("info", grown)
    assert "without audio: image, text" in call("extend", grown, "--remove", "audio", "--output", smaller)
    assert list(lightcrl.load(smaller).modalities) == ["image", "text"]
    assert "the model has audio already" in call("extend", grown, place / "sound.toml", code=1)


def test_figures_are_written_as_json(place, tmp_path):
    words = ("extend", place / "dfe", place / "sound.toml", "--output", tmp_path, "--json", "-")
    figures = json.loads(call(*words))
    assert figures == json.loads((tmp_path / "extension.json").read_text())
    assert figures["emergent"] == ["audio_to_image", "image_to_audio"]
    assert figures["unchanged"]["modalities"] == ["image", "text"]
    assert figures["retrieval"]["metrics"].keys() >= {"audio_to_image/recall@1", "text_to_audio/recall@10"}


def test_wrong_usage_has_exit_code_2(place, tmp_path):
    expected = "expected RECIPE.toml, alone or with --replace, or --remove"
    assert expected in call("extend", place / "dfe", code=2).replace("\n", " ").replace("│", "").replace("  ", " ")
    call("extend", place / "dfe", place / "sound.toml", "--remove", "text", "--output", tmp_path, code=2)
    call("extend", place / "dfe", "--remove", "text", "--replace", "image", "--output", tmp_path, code=2)
    assert "--output" in call("extend", place / "dfe", "--remove", "text", code=2)


def test_paths_count_from_the_recipes_folder(tmp_path):
    (tmp_path / "more.toml").write_text(
        RECIPE + '[stores]\nimage = "kept/image"\n[vectors.text]\npath = "v.npy"\nids = "v.json"\n'
    )
    found = GrowthRecipe.read(tmp_path / "more.toml")
    assert found.name == "more"
    assert found.stores == {"image": str(tmp_path / "kept/image")}
    assert (found.vectors["text"].path, found.vectors["text"].ids) == (
        str(tmp_path / "v.npy"),
        str(tmp_path / "v.json"),
    )
    assert found.features.folder == str(tmp_path / "features")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stores": {"text": "s"}, "vectors": {"text": {"path": "v.npy"}}}, "text under .stores. and .vectors."),
        ({"evaluation": {"others": ["text"]}}, "text among partners and evaluation.others"),
        ({"partner": ["text"]}, "unknown key 'partner'. Did you mean 'partners'?"),
        ({"vectors": {"text": {"file": "v.npy"}}}, "vectors.text"),
        ({"evaluation": {"seeds": [1]}}, "unknown key 'evaluation.seeds'"),
    ],
)
def test_a_recipe_that_does_not_hold_together_is_refused(tmp_path, given, message):
    with pytest.raises(RecipeError, match=message):
        recipe(tmp_path, **given)
