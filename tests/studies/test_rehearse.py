"""A rehearsal does everything once, leaves nothing behind, and forecasts what the run then takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import lightcrl
from lightcrl.cli import app
from lightcrl.data import load_dataset
from lightcrl.data.synthetic import write_class_folder, write_table
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import ViewsSpec
from lightcrl.features import FeatureStore
from lightcrl.features.extract import encode_each
from lightcrl.features.spec import FeaturesSpec
from lightcrl.recipe import make_recipe
from lightcrl.studies.rehearse import rates, rehearse
from lightcrl.studies.rehearse.forecast import Encoding, Forecast, forecast_encoding
from lightcrl.studies.rehearse.rates import EncodingRate
from lightcrl.studies.rehearse.rehearse import find_problems
from lightcrl.studies.rehearse.sample import GROUPS, hold, release, shrink
from lightcrl.tasks.spec import make_task_spec


def table(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "data": {"path": str(folder / "world/groups.jsonl"), "dev_fraction": 0.3},
        "encoders": {
            "image": {"kind": "image", "model": "builtin"},
            "text": {"kind": "text", "model": "builtin", "options": {"dim": 64}},
        },
        "features": {"folder": str(folder / "features")},
        "method": {"name": "linear", "dim": 16},
        "training": {"epochs": 3, "precision": "float32", "tensorboard": False},
        **more,
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rehearsal")
    write_table(folder / "world", 150, seed=4)
    write_class_folder(folder / "classes", "shape", per_class=5)
    return folder


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["lightcrl.studies.rehearse.rehearse"]
    monkeypatch.setattr(module, "ENCODING_SECONDS", 0.3)
    monkeypatch.setattr(module, "TRAINING_SECONDS", 0.3)


def sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_forecast_is_what_the_run_takes_and_nothing_stays(place: Path, tmp_path: Path) -> None:
    recipe = make_recipe(
        table(
            place,
            output=str(tmp_path / "run"),
            evaluation={"baselines": ["convirt"], "seeds": [0, 1], "zero_shot": {"data": str(place / "classes")}},
        )
    )
    pages: list[Path] = []
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    done = rehearse(recipe, page=pages.append)
    assert done.problems == []
    assert [part.name for part in done.parts] == [
        *("settings", "data", "encoders", "shards, first steps, save", "resume, evaluation", "report"),
        *("rate of encoding", "rate of training"),
    ]
    assert "resumed at step" in done.parts[4].outcome
    assert len(pages) == 1
    assert not pages[0].exists()
    assert not (tmp_path / "run").exists()
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    forecast = done.forecast
    assert forecast is not None
    assert done.to_json()["forecast"]["core_hours"] == pytest.approx(forecast.seconds * done.cores / 3600)
    assert 0.05 < done.cores * forecast.seconds < 60
    assert {name: seeds for name, (_, seeds) in forecast.training.items()} == {"linear": 2, "convirt": 2}
    lightcrl.run(recipe)
    stores = [path for path in (place / "features").iterdir() if "-" in path.name]
    own = [path for path in stores if len(list(path.glob("items-*"))) and json_rows(path) >= 150]
    assert forecast.feature_bytes == pytest.approx(sum(map(sizes, own)), rel=0.1)
    log = (tmp_path / "run/log.jsonl").read_text().splitlines()
    assert sum('"step"' in line and '"loss"' in line for line in log) == forecast.training["linear"][0].plan.steps
    assert forecast.run_bytes == pytest.approx(sizes(tmp_path / "run"), rel=0.5)
    # Everything is stored now, so that encoding costs nothing.
    dataset, rate = load_dataset(recipe.data, recipe.kinds), EncodingRate(0.1, 18.0, 64, ())
    (store,) = (path for path in own if path.name.startswith("image"))
    encoder = load_encoder(recipe.encoders["image"])
    known = forecast_encoding(recipe, encoder, dataset, "image", rate, FeatureStore(store))
    assert (known.items, known.stored, known.seconds) == (150, 150, 0.0)
    seen = recipe.encoders["image"].model_copy(update={"views": ViewsSpec(count=3)})
    viewed = recipe.model_copy(update={"encoders": {**recipe.encoders, "image": seen}})
    more = forecast_encoding(viewed, encoder, dataset, "image", rate, FeatureStore(store))
    trained = dataset.splits.count("train")
    assert (more.items, more.stored, more.seconds) == (150 + 2 * trained, 150, pytest.approx(0.2 * trained))
    assert more.nbytes == pytest.approx(known.nbytes * more.items / 150, rel=0.1)


@pytest.mark.parametrize(("method", "views", "passes"), [("dfe", 1, 1), ("dfe", 3, 3), ("linear", 3, 1)])
def test_a_closed_form_takes_a_pass_for_each_view(
    place: Path, tmp_path: Path, monkeypatch, method: str, views: int, passes: int
) -> None:
    """Two seconds before the first step and one for each step, on a clock of the test's own."""
    now = [0.0]

    def timed(recipe, spec, seed, folder, features, encoders, report) -> None:
        for event, seconds in (("start", 0), ("step", 3), *[("step", 1)] * 4):
            now[0] += seconds
            report({"event": event})

    monkeypatch.setattr(rates, "train_method", timed)
    monkeypatch.setattr(rates.time, "perf_counter", lambda: now[0])
    given = table(place, method={"name": method})
    given["encoders"]["image"]["views"] = views
    recipe = make_recipe(given)
    dataset = load_dataset(recipe.data, recipe.kinds)
    encoders = {name: load_encoder(spec) for name, spec in recipe.encoders.items()}
    features = FeaturesSpec(folder=str(tmp_path))
    stores, _ = encode_each(encoders, dataset, features, lambda event: None)
    rate = rates.measure_training(recipe, recipe.method, stores, dataset, encoders, tmp_path / "t", seconds=60)
    assert (rate.start, rate.step) == (2.0 * passes, 1.0)


def json_rows(store: Path) -> int:
    return sum(shard["rows"] for shard in json.loads((store / "manifest.json").read_text())["shards"])


def test_what_would_break_is_said_before_it_does(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        f"[{name}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in table(place)[name].items())
        for name in ("data", "features", "method", "training")
    ]
    lines += [f'[encoders.{name}]\nkind = "{name}"\nmodel = "builtin"' for name in ("image", "text")]
    (tmp_path / "r.toml").write_text("\n".join(lines).replace(": ", " = "))
    words = ["run", str(tmp_path / "r.toml"), "--output", str(tmp_path / "run"), "--json", str(tmp_path / "out.json")]
    broken = CliRunner().invoke(app, [*words, "--rehearse", "--set", "training.batch_size=4000"])
    assert broken.exit_code == 1
    assert "would break: TrainingError: training.batch_size is 4000, but only" in broken.output.replace("\n", " ")
    assert json.loads((tmp_path / "out.json").read_text())["forecast"] is None
    assert not (tmp_path / "run").exists()
    made = Forecast({"text": Encoding(1, 0, 1.0, 1e18, 1e18)}, 0.0, {}, 1.0, 1e18, False)
    disk, memory = find_problems(make_recipe(table(place)), made)
    assert "needs 931322574.6 GiB, and its disk has" in disk
    assert "Set training.memory lower" in memory


def test_the_sample_has_every_split_and_small_tasks_few_files(place: Path, tmp_path: Path) -> None:
    recipe = make_recipe(table(place))
    dataset = load_dataset(recipe.data, recipe.kinds)
    spec = hold(dataset, "dev")
    small = load_dataset(spec, recipe.kinds)
    assert (len(small.groups), small.splits.count("dev")) == (GROUPS, 16)
    assert {name: set(small.splits) for name in small.items} == {name: {"train", "dev"} for name in recipe.kinds}
    whole = dict(zip(dataset.groups, dataset.splits, strict=True))
    assert all(whole[name] == split for name, split in zip(small.groups, small.splits, strict=True))
    release(spec)
    with pytest.raises(KeyError):
        load_dataset(spec, recipe.kinds)
    task = shrink(make_task_spec("zero_shot", {"data": str(place / "classes")}), tmp_path / "t")
    assert task.spec is not None
    files = sorted((tmp_path / "t").rglob("*.png"))
    assert (task.files, len(files)) == (40, 24)
    assert np.unique([path.parent.name for path in files]).size == 8
    lines = [{"text1": "a", "text2": "b", "score": n} for n in range(500)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = shrink(make_task_spec("text_similarity", {"data": str(tmp_path / "p.jsonl")}), tmp_path / "u")
    assert pairs.texts == 1000
    assert len((tmp_path / "u/data.jsonl").read_text().splitlines()) <= 72
    assert shrink(make_task_spec("text_similarity", {"data": "owner/name"}), tmp_path / "v").spec is None
