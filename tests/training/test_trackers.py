"""Trackers get the recipe, every value, the card, the figures and the pages; a resumed training goes on in its run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from typer.testing import CliRunner

import lightcrl
import tracker_stand_in
from growing import DATA, TRAINING, encoder
from lightcrl.cli import app
from lightcrl.errors import MissingExtraError, TrainingError, UnknownNameError
from lightcrl.recipe import make_recipe
from lightcrl.training.spec import TrainingSpec
from lightcrl.training.trackers import Tracked, attach, start

RECORDER = "tracker_stand_in:Recorder"


def recipe(folder: Path, *trackers: str, **training: Any) -> lightcrl.Recipe:
    table = {
        "name": "tracked",
        "data": DATA,
        "encoders": {name: encoder(name) for name in ("image", "text")},
        "features": {"folder": str(folder / "features")},
        "method": {"name": "linear", "dim": 16},
        "training": TRAINING | {"trackers": list(trackers)} | training,
    }
    return make_recipe(table)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture(scope="module")
def done(folder) -> Any:
    """A run with two trackers."""
    return lightcrl.run(recipe(folder, RECORDER, "tensorboard"), output=folder / "run")


def values(lines: list[dict[str, Any]], name: str) -> dict[int, float]:
    return {line["step"]: line["values"][name] for line in lines if name in line.get("values", {})}


def test_a_tracker_has_recipe_losses_figures_and_card(done):
    lines = tracker_stand_in.read(done.folder)
    assert lines[0] == {"start": "tracked linear-seed0", "id": lines[0]["id"], "resume": False}
    configuration = lines[1]["configuration"]
    assert (configuration["name"], configuration["training.epochs"], configuration["method.name"]) == (
        "tracked",
        2,
        "linear",
    )
    log = [json.loads(line) for line in (done.folder / "log.jsonl").read_text().splitlines()]
    assert values(lines, "loss") == {line["step"]: line["loss"] for line in log if line["event"] == "step"}
    assert values(lines, "dev_mean_recall@1") == {
        line["step"]: line["dev_mean_recall@1"] for line in log if line["event"] == "evaluation"
    }
    # After the training the same run is opened again, for what comes later.
    again, figures, card, end = lines[-4:]
    assert again == lines[0] | {"resume": True}
    assert figures["values"]["retrieval/mean_recall@1"] == done.models[0].retrieval.metrics["mean_recall@1"]
    assert figures["step"] == max(values(lines, "loss")) + 1
    assert "# tracked" in card["values"]["card"]
    assert end == {"finish": True}


def test_tensorboard_has_the_same_values_and_the_card(done):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(done.folder / "tensorboard"))
    events.Reload()
    losses = values(tracker_stand_in.read(done.folder), "loss")
    assert [event.step for event in events.Scalars("loss")] == list(losses)
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(list(losses.values()))
    assert len(events.Scalars("dev_mean_recall@1")) == 2
    figure = done.models[0].retrieval.metrics["mean_recall@1"]
    assert events.Scalars("retrieval/mean_recall@1")[0].value == pytest.approx(figure)
    assert {"card/text_summary", "configuration/text_summary"} <= set(events.Tags()["tensors"])


def test_the_same_run_again_adds_nothing(done, folder):
    before = tracker_stand_in.read(done.folder)
    lightcrl.run(recipe(folder, RECORDER, "tensorboard"), output=folder / "run")
    assert tracker_stand_in.read(done.folder) == before


def test_trackers_change_no_weight_and_are_no_setting_of_the_training(done, folder):
    # The run is known although its trackers are others now.
    again = lightcrl.run(recipe(folder), output=folder / "run")
    assert again.models[0].retrieval == done.models[0].retrieval
    plain = lightcrl.run(recipe(folder), output=folder / "plain")
    assert (plain.folder / "best/model.safetensors").read_bytes() == (
        done.folder / "best/model.safetensors"
    ).read_bytes()
    assert not (plain.folder / "trackers.json").exists()


def test_a_resumed_training_goes_on_in_its_run(done, folder):
    """It is killed in its second epoch, after the save of the first."""

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lightcrl.run(recipe(folder, RECORDER), output=folder / "killed", tell=kill)
    before = tracker_stand_in.read(folder / "killed")
    assert before[-1] == {"finish": True}
    lightcrl.run(recipe(folder, RECORDER), output=folder / "killed")
    lines = tracker_stand_in.read(folder / "killed")[len(before) :]
    assert lines[0] == before[0] | {"resume": True}
    first = min(values(lines, "loss"))
    assert 0 < first <= max(values(before, "loss"))
    assert values(before, "loss") | values(lines, "loss") == values(tracker_stand_in.read(done.folder), "loss")
    assert not [line for line in lines if "configuration" in line]


def test_the_command_attaches_the_report_page(folder):
    text = f"""
        name = "tracked"
        [data]
        source = "synthetic"
        dev_fraction = 0.3
        options = {{ groups = 60 }}
        [encoders.image]
        kind = "image"
        model = "builtin"
        [encoders.text]
        kind = "text"
        model = "builtin"
        [features]
        folder = "{folder}/features"
        [method]
        name = "linear"
        dim = 16
        [training]
        epochs = 1
        batch_size = 16
        precision = "float32"
        trackers = ["{RECORDER}"]
    """
    (folder / "recipe.toml").write_text(text)
    result = CliRunner().invoke(app, ["run", str(folder / "recipe.toml"), "--output", str(folder / "commanded")])
    assert result.exit_code == 0, result.output
    files = [line["file"] for line in tracker_stand_in.read(folder / "commanded") if "file" in line]
    assert files == ["README.md", "metrics.json", "report.html"]
    assert "<html" in (folder / "commanded/report.html").read_text()


def test_what_is_missing_or_unknown_is_refused_before_any_work(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"trackers = \['wandb'\] needs .* pip install 'lightcrl\[wandb\]'"):
        lightcrl.run(recipe(folder, "wandb"), output=folder / "refused")
    assert not (folder / "refused/log.jsonl").exists()
    with pytest.raises(UnknownNameError, match=r"unknown tracker 'wandv'\. Did you mean 'wandb'"):
        recipe(folder, "wandv")
    with pytest.raises(TrainingError, match=r"the tracker 'tracker_stand_in:Broken' does not start: no server\. Leave"):
        lightcrl.run(recipe(folder, "tracker_stand_in:Broken"), output=folder / "broken")


def test_the_old_key_is_read_and_the_new_one_decides():
    assert TrainingSpec(tensorboard=False).tracked_by == ()
    assert TrainingSpec(tensorboard=True).tracked_by == ("tensorboard",)
    assert TrainingSpec(tensorboard=True, trackers=()).tracked_by == ()
    assert TrainingSpec(trackers=("wandb",)).identity() == TrainingSpec().identity()


# --- the interfaces of trackers that the tests do not install ---


@pytest.fixture
def modules(monkeypatch) -> Any:
    """Stand-ins of three packages, which record their calls."""
    made = SimpleNamespace(**{name: MagicMock(spec=ModuleType, name=name) for name in ("wandb", "trackio", "mlflow")})
    for name, module in vars(made).items():
        for call in (
            "init",
            "config",
            "save",
            "Markdown",
            "set_tracking_uri",
            "log_text",
            "log_artifact",
            "log_metrics",
        ):
            setattr(module, call, MagicMock())
        monkeypatch.setitem(sys.modules, name, module)
    made.mlflow.search_experiments = MagicMock(return_value=[])
    made.mlflow.create_experiment = MagicMock(return_value="7")
    run = SimpleNamespace(info=SimpleNamespace(run_id="chosen"))
    made.mlflow.start_run, made.mlflow.log_params = MagicMock(return_value=run), MagicMock()
    made.mlflow.end_run = MagicMock()
    made.mlflow.utils = SimpleNamespace(
        validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100)
    )
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return made


def both(tmp_path: Path, name: str) -> None:
    """Start, finish, and attach a page to the same run."""
    page = tmp_path / "report.html"
    page.write_text("<html>")
    tracked = Tracked(tmp_path, "birds", "dfe-seed0")
    (tracker,) = start([name], tracked, {"training": {"epochs": 3}})
    tracker.log({"loss": 0.5}, step=1)
    tracker.finish()
    attach([name], tracked, {"recall@1": 0.25}, "# card", [page])


def test_wandb_stays_offline_without_a_key_and_resumes_by_its_id(modules, tmp_path, monkeypatch):
    both(tmp_path, "wandb")
    first, again = (call.kwargs for call in modules.wandb.init.call_args_list)
    assert first == again
    assert (first["project"], first["name"], first["mode"], first["resume"]) == (
        "birds",
        "dfe-seed0",
        "offline",
        "allow",
    )
    assert first["id"] == json.loads((tmp_path / "trackers.json").read_text())["runs"]["wandb"]
    modules.wandb.config.update.assert_called_once_with({"training.epochs": 3}, allow_val_change=True)
    run = modules.wandb.init.return_value
    assert [call.args[0] for call in run.log.call_args_list] == [{"loss": 0.5}, {"recall@1": 0.25}]
    run.config.update.assert_called_once_with({"card": "# card"}, allow_val_change=True)
    run.save.assert_called_once_with(str(tmp_path / "report.html"), base_path=str(tmp_path), policy="now")
    monkeypatch.setenv("WANDB_API_KEY", "key")
    start(["wandb"], Tracked(tmp_path, "birds", "dfe-seed0"), {})
    assert modules.wandb.init.call_args.kwargs["mode"] == "online"


def test_trackio_resumes_by_its_name(modules, tmp_path):
    both(tmp_path, "trackio")
    first, again = (call.kwargs for call in modules.trackio.init.call_args_list)
    assert first == again
    assert (first["project"], first["resume"]) == ("birds", "allow")
    assert first["name"].startswith("dfe-seed0 ")
    modules.trackio.Markdown.assert_called_once_with("# card")
    modules.trackio.save.assert_called_once_with(tmp_path / "report.html", project="birds")


def test_mlflow_keeps_its_data_in_the_folder_and_resumes_its_run(modules, tmp_path):
    both(tmp_path, "mlflow")
    modules.mlflow.set_tracking_uri.assert_called_with(f"sqlite:///{tmp_path.resolve()}/mlflow.db")
    first, again = (call.kwargs for call in modules.mlflow.start_run.call_args_list)
    assert (first["run_id"], first["run_name"]) == (None, "dfe-seed0")
    assert again["run_id"] == "chosen"
    # MLflow takes no @ in a name.
    assert [call.args[0] for call in modules.mlflow.log_metrics.call_args_list] == [
        {"loss": 0.5},
        {"recall_at_1": 0.25},
    ]
    modules.mlflow.log_params.assert_called_once_with({"training.epochs": 3})
    modules.mlflow.log_text.assert_called_once_with("# card", "card.md")
    assert str(tmp_path / "report.html") in modules.mlflow.log_artifact.call_args.kwargs.values()
