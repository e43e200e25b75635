"""The commands and keys that scripts may rely on, and one clear line for every mistake."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import lightcrl
from forked import COMMAND, Program
from lightcrl.checkpoint import load_checkpoint
from lightcrl.cli import app, main
from lightcrl.data.synthetic import write_class_folder, write_table
from lightcrl.report import progress


@pytest.fixture(scope="module")
def world(small_run):
    return small_run


def call(*words: object, code: int = 0) -> str:
    """Run the command line in this process and give what it printed; `code` is the exit code expected."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


def shell(*words: object, **given) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    process = Program(COMMAND, *words, **given)
    output, error = process.communicate()
    return subprocess.CompletedProcess([*map(str, words)], process.returncode, output, error)


# --- what a run leaves behind ---


def test_a_run_leaves_model_logs_figures_and_what_was_set_aside(world):
    assert {path.name for path in world.run.iterdir()} == {
        "README.md",
        "best",
        "config_sentence_transformers.json",
        "last",
        "log.jsonl",
        "metrics.json",
        "modules.json",
        "others",
        "recipe.json",
        "rejected.jsonl",
    }
    metrics = json.loads((world.run / "metrics.json").read_text())
    assert [(model["method"], model["seed"]) for model in metrics["models"]] == [("dfe", 0), ("linear", 0)]
    for model in metrics["models"]:
        assert model["retrieval"]["curves"].keys() == {"image_to_text", "text_to_image"}
        assert {"image_to_text/recall@1", "text_to_image/recall@10", "mean_recall@1"} <= model["retrieval"][
            "metrics"
        ].keys()
        assert model["zero_shot"]["metrics"].keys() == {"top1", "top2", "top3", "top4", "top5"}
        low, high = model["retrieval"]["interval"]["mean_recall@1"]
        assert low <= model["retrieval"]["metrics"]["mean_recall@1"] <= high


def test_the_same_recipe_again_encodes_and_trains_nothing(world):
    events = []
    again = lightcrl.run(world.recipe, output=world.run, tell=events.append)
    encoded = [(e["modality"], e["encoded"]) for e in events if e["event"] == "encoded"]
    assert encoded == [("image", 0), ("text", 0), ("image", 0)]  # the last for zero-shot classification
    assert not [e for e in events if e["event"] == "step"]
    assert again.models[0].retrieval == world.done.models[0].retrieval


def test_a_run_with_views_encodes_them_alone_and_measures_plain_pictures(world, tmp_path):
    events = []
    words = ["encoders.image.views=2", "training.epochs=2", "evaluation.baselines=[]"]
    done = lightcrl.run(world.recipe, words, tmp_path, events.append)
    encoded = {event["modality"]: event for event in events if event["event"] == "encoded"}
    assert [name for name, event in encoded.items() if event["encoded"]] == ["image, view 1"]
    groups = next(event["groups"] for event in events if event["event"] == "data")
    assert encoded["image, view 1"]["items"] == groups["train"]
    assert done.models[0].retrieval.counts == world.done.models[0].retrieval.counts
    assert lightcrl.load(tmp_path).checkpoint.encoders["image"].views.count == 2


def test_a_changed_encoder_encodes_what_changed_alone(world, tmp_path):
    events = []
    set_text = "encoders.text.options={ dim = 256 }"
    lightcrl.run(world.recipe, [set_text, "evaluation.baselines=[]"], tmp_path, events.append)
    encoded = [(e["modality"], e["encoded"] > 0) for e in events if e["event"] == "encoded"]
    assert encoded == [("image", False), ("text", True), ("image", False)]


# --- the contract of the commands ---


def test_run_prints_a_table_of_recall(world):
    output = call("run", world.recipe, "--output", world.run)
    assert "encoded nothing" in output
    assert re.search(r"dfe\W+0\W", output)
    assert re.search(r"linear\W+0\W", output)
    assert "chance" in output


def test_evaluate_retrieval_on_a_table_it_has_never_seen(world, tmp_path):
    write_table(tmp_path / "new", 30, 5)
    rows = [json.loads(line) for line in (tmp_path / "new/groups.jsonl").read_text().splitlines()]
    lines = [{"photo": row["image"], "caption": text} for row in rows for text in row["text"]]
    (tmp_path / "new/pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("--data", tmp_path / "new/pairs.jsonl", "--image-column", "photo", "--text-column", "caption")
    call("evaluate", "retrieval", world.run, *words, "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["counts"]["image_to_text/queries"] == 30
    assert found["counts"]["image_to_text/gallery"] <= len(lines)
    recall = found["metrics"]["image_to_text/recall@1"]
    assert 0 <= recall <= found["metrics"]["image_to_text/recall@5"] <= 1
    low, high = found["interval"]["image_to_text/recall@1"]
    assert low <= recall <= high
    assert found["metrics"]["mean_recall@1"] > 3 * found["chance"]["mean_recall@1"]
    curve = found["curves"]["text_to_image"]
    assert (curve["k"][0], curve["k"][-1], curve["recall"][-1]) == (1, 30, pytest.approx(1))
    assert curve["precision"][0] == pytest.approx(found["metrics"]["text_to_image/recall@1"])


def test_evaluate_agrees_with_the_run_on_the_runs_own_dev_split(world, tmp_path):
    dev = set(lightcrl.Features(_stores(world)).names("dev"))
    lines = (world.folder / "world/groups.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["image"] in dev]
    (world.folder / "world/dev.jsonl").write_text("".join(f"{line}\n" for line in kept))
    data = ("--data", world.folder / "world/dev.jsonl")
    call("evaluate", "retrieval", world.run, *data, "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    expected = world.done.models[0].retrieval
    assert found["metrics"] == pytest.approx(expected.metrics, abs=1e-6)


def _stores(world):
    folders = {path.name.partition("-")[0]: path for path in sorted((world.folder / "features").iterdir())}
    manifests = {m: json.loads((p / "manifest.json").read_text()) for m, p in folders.items()}
    assert manifests.keys() == {"image", "text"}
    chosen = {}
    for path in (world.folder / "features").iterdir():
        store = lightcrl.FeatureStore(path)
        if "train" in store.metadata()["split"].to_pylist():
            chosen[path.name.partition("-")[0]] = store
    return chosen


def test_evaluate_zero_shot_on_a_class_folder(world, tmp_path):
    words = ("--data", world.folder / "shapes", "--template", "a picture of a {}.", "--json", tmp_path / "out.json")
    call("evaluate", "zero-shot", world.run, *words)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["metrics"] == pytest.approx(world.done.models[0].results["zero_shot"].metrics)
    assert found["interval"].keys() == found["metrics"].keys() == {"top1", "top2", "top3", "top4", "top5"}


def test_evaluate_text_similarity_on_labelled_and_on_scored_pairs(world, tmp_path):
    colours = ("red", "blue", "green", "yellow")
    for name, count in (("train", 12), ("test", 16)):
        lines = [
            {"a": f"a {one} circle, {name} {number}", "text2": f"one {other} circle", "label": int(one == other)}
            for number in range(count // 4)
            for one, other in zip(colours, colours[: 2 + number % 2] * 2, strict=False)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = (
        "evaluate",
        "text-similarity",
        world.run,
        "--column",
        "text1=a",
        "--data",
        tmp_path / "test.jsonl",
    )
    message = call(*words, code=1)
    assert "has labels, and no split to calibrate their threshold on" in message
    words = (*words, "--page", tmp_path / "out.html")
    output = call(*words, "--calibration", tmp_path / "train.jsonl", "--json", tmp_path / "out.json")
    assert "vertical line is the threshold" in (tmp_path / "out.html").read_text()
    assert "aligned text-text/accuracy" in output
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["thresholds"].keys() == {"aligned text-text", "raw text"}
    assert {"raw text/dissimilar/recall", "aligned text-text/similar/f1"} <= found["metrics"].keys()
    call(*words, "--column", "score=label", "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    spaces = ("aligned text-text", "raw text")
    assert found["metrics"].keys() == {f"{space}/{name}" for space in spaces for name in ("spearman", "pearson")}


def test_evaluate_linear_probe_measures_every_model_of_the_run_beside_the_encoder(world, tmp_path):
    write_class_folder(tmp_path / "new", attribute="shape", per_class=4, seed=2)
    words = ("--data", world.folder / "shapes", "--test", tmp_path / "new", "--json", tmp_path / "out.json")
    output = call("evaluate", "linear-probe", world.run, *words)
    assert "raw image/top1" in output
    found = json.loads((tmp_path / "out.json").read_text())
    named = ("top1", *(f"epoch{epoch}/top1" for epoch in (20, 40, 60, 80, 100)))
    assert found["metrics"].keys() == {f"{space}/{name}" for space in ("raw image", "dfe", "linear") for name in named}
    assert found["interval"].keys() == found["metrics"].keys()
    assert found["counts"] == {"train": 24, "held": 8, "test": 32, "classes": 8}
    # A space is that of the model it is called by: as if it had been probed by itself.
    alone = (
        "evaluate",
        "linear-probe",
        world.run / "others/linear-seed0",
        *words[:-1],
        tmp_path / "one.json",
    )
    call(*alone)
    one = json.loads((tmp_path / "one.json").read_text())
    assert one["metrics"] == {name: value for name, value in found["metrics"].items() if not name.startswith("dfe")}
    assert one["strengths"].keys() == {"raw image", "linear"}
    twice = call("evaluate", "linear-probe", world.run, "--data", tmp_path / "new", "--test-files", "*", code=1)
    assert "32 of 32 files of test are in train too" in twice


def test_evaluate_fine_tuning_keeps_a_classifier_where_it_is_told_to(world, tmp_path):
    write_class_folder(tmp_path / "new", attribute="shape", per_class=4, seed=2)
    words = ("--data", world.folder / "shapes", "--test", tmp_path / "new")
    places = ("--output", tmp_path / "tuned", "--json", tmp_path / "out.json", "--page", tmp_path / "out.html")
    output = call(
        "evaluate", "fine-tuning", world.run, *words, *places, "--set", "training.epochs=10", "--set", "seed=3"
    )
    assert "epoch10/top1" in output
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["metrics"].keys() == {"top1", *(f"epoch{epoch}/top1" for epoch in (2, 4, 6, 8, 10))}
    assert found["counts"] == {"train": 24, "held": 8, "test": 32, "classes": 8}
    assert found["chance"] == dict.fromkeys(found["metrics"], 1 / 8)
    page = (tmp_path / "out.html").read_text()
    assert "for fine-tuning, the checkpoint chosen by held-out items" in " ".join(page.split())
    assert page.count("<h2>") == 1
    assert "classes" in call("info", tmp_path / "tuned")
    wrong = call("evaluate", "fine-tuning", world.run, *words, "--set", "training.epoch=10", code=1)
    assert "Did you mean 'epochs'" in wrong


def test_report_writes_a_page_of_one_run_or_of_several(world, tmp_path):
    call("report", world.run, world.run, "--output", tmp_path / "deep/two.html")
    page = (tmp_path / "deep/two.html").read_text()
    assert "2 runs side by side" in page
    recall = world.done.models[1].retrieval.metrics["mean_recall@1"]
    assert f"{100 * recall:.1f}" in page
    assert "no finished run in" in call("report", tmp_path, code=1)


def test_embed_writes_unit_vectors_and_their_ids(world, tmp_path):
    pictures = sorted((world.folder / "shapes").rglob("*.png"))
    words = ("--modality", "image", world.folder / "shapes", "--output", tmp_path / "out.npy")
    call("embed", world.run, *words)
    vectors = np.load(tmp_path / "out.npy")
    assert vectors.shape == (len(pictures), 48)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    ids = json.loads((tmp_path / "out.json").read_text())["ids"]
    assert ids == [path.relative_to(world.folder / "shapes").as_posix() for path in pictures]
    direct = lightcrl.load(world.run).encode(pictures, "image")
    np.testing.assert_allclose(vectors, direct, atol=1e-6)
    one = ("--modality", "image", pictures[4], "--output", tmp_path / "one.npy")
    call("embed", world.run, *one)
    np.testing.assert_allclose(np.load(tmp_path / "one.npy"), direct[4:5], atol=1e-6)
    call("embed", world.run, *one, "--views", 3)
    several = lightcrl.load(world.run).encode(pictures[4:5], "image", views=3)
    np.testing.assert_allclose(np.load(tmp_path / "one.npy"), several, atol=1e-6)
    assert np.abs(several - direct[4:5]).max() > 1e-3


def test_embed_texts_by_line_and_set_aside_what_is_broken(world, tmp_path):
    (tmp_path / "lines.txt").write_text("a red circle\n\ntwo blue stars\n")
    call("embed", world.run, "--modality", "text", tmp_path / "lines.txt", "--output", tmp_path / "t.npy")
    assert np.load(tmp_path / "t.npy").shape == (2, 48)
    (tmp_path / "pictures").mkdir()
    shutil.copy(next((world.folder / "shapes").rglob("*.png")), tmp_path / "pictures/good.png")
    (tmp_path / "pictures/broken.png").write_bytes(b"not a picture")
    output = call("embed", world.run, "--modality", "image", tmp_path / "pictures", "--output", tmp_path / "p.npy")
    assert "set aside: 1 unreadable image" in output
    assert json.loads((tmp_path / "p.json").read_text())["ids"] == ["good.png"]


def test_info_prints_parameters_per_part(world, tmp_path):
    output = call("info", world.run, "--json", tmp_path / "info.json")
    parts = json.loads((tmp_path / "info.json").read_text())["parameters"]
    for part, count in parts.items():
        assert re.search(rf"{part}\W+{count:,}\W", output)
    assert f"{sum(parts.values()):,}" in output
    assert {"stem image", "stem text", "context", "block", "logit_scale"} <= parts.keys()
    # What "auto" stands for in this model, beside it.
    share = float(load_checkpoint(world.run).method.share)
    assert f"canonical auto ({share:.3g})" in " ".join(output.split())


def test_json_on_standard_output_stands_alone(world):
    result = CliRunner().invoke(app, ["info", str(world.run), "--json", "-"])
    assert result.exit_code == 0
    assert {"stem image", "stem text"} <= json.loads(result.stdout)["parameters"].keys()
    assert "trained parameters" in result.stderr
    assert "trained parameters" in call("info", world.run)


def test_counts_are_said_in_a_sentence():
    from lightcrl.report.console import sentence

    counts = {"image_to_text/queries": 1000, "image_to_text/gallery": 4993}
    assert sentence(counts) == "image to text: 1,000 queries in a gallery of 4,993"
    assert sentence({"train": 24, "held": 8}) == "24 train; 8 held"


def test_version_and_module(world):
    words = [sys.executable, "-m", "lightcrl", "--version"]
    found = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.strip() == f"lightcrl {lightcrl.__version__}"


# --- python ---


def test_encode_does_not_depend_on_neighbours_or_order(world):
    embedder = lightcrl.load(world.run)
    texts = ["a red circle", "two small green stars with stripes at the left", "ring", "a red circle"]
    together = embedder.encode(texts, "text")
    np.testing.assert_allclose(together[0], together[3], atol=1e-6)
    np.testing.assert_allclose(embedder.encode(texts[::-1], "text")[::-1], together, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([embedder.encode([text], "text") for text in texts]), together, atol=1e-6)


def test_embeddings_are_found_in_an_index_by_another_modality_s(world, tmp_path):
    from lightcrl.index import VectorIndex

    embedder = lightcrl.load(world.run)
    texts = ["a red circle", "two small green stars", "ring", "three blue stars on a grey ground"]
    VectorIndex(embedder.encode(texts, "text").astype(np.float16), texts).save(tmp_path)
    index = VectorIndex.open(tmp_path)
    assert [ids[0] for ids in index.search(embedder.encode(texts, "text"), k=2).ids] == texts
    pictures = embedder.encode([np.full((64, 64, 3), 200, np.uint8)], "image")
    found = index.search(pictures, k=4)
    likeness = (pictures @ embedder.encode(texts, "text").T)[0]
    assert found.ids[0] == [texts[at] for at in np.argsort(-likeness)]
    np.testing.assert_allclose(found.scores[0], np.sort(likeness)[::-1], atol=1e-3)


def test_encode_says_what_is_wrong(world):
    embedder = lightcrl.load(world.run)
    with pytest.raises(lightcrl.LightCRLError, match="no modality 'audio' in this model; it has image, text"):
        embedder.encode(["x"], "audio")
    with pytest.raises(lightcrl.LightCRLError, match="item 1: "):
        embedder.encode(["fine", ""], "text")
    with pytest.raises(lightcrl.LightCRLError, match="takes a list of items, found one str"):
        embedder.encode("fine", "text")


def test_another_encoder_than_the_models_own_is_refused(world):
    from lightcrl.embedder import Embedder

    checkpoint = lightcrl.load_checkpoint(world.run)
    spec = checkpoint.encoders["text"]
    checkpoint.encoders["text"] = spec.model_copy(update={"options": {"dim": 32}})
    with pytest.raises(lightcrl.LightCRLError, match=r"has fingerprint \w+, the model was trained with \w+"):
        Embedder(checkpoint).encode(["x"], "text")


# --- mistakes: one clear line, the right exit code ---


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=3", "unknown key 'epochs'. Did you mean 'training.epochs'?"),
        ("training.epohcs=3", "unknown key 'training.epohcs'. Did you mean 'epochs'?"),
        ("data.path=absent.jsonl", "absent.jsonl is not there"),
        ("data.columns={ text = 'caption' }", "caption"),
        ("data.columns={ sound = 'image' }", "unknown modality 'sound'"),
        ("encoders.text.model=./nowhere", "nowhere"),
        ("encoders.text.model=nobody/nothing", "nobody/nothing"),
        ("training.batch_size=4096", "training.batch_size is 4096, but only"),
        ("data.dev_fraction=0.0", "no groups in the dev split"),
        ("evaluation.split=test", "evaluation.split is 'test', but the data has no groups there"),
        ("evaluation.zero_shot.data=absent", "absent is not there"),
    ],
)
def test_a_users_mistake_is_one_clear_message(world, tmp_path, override, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(world.folder)
    assert message in call("run", world.recipe, "--output", tmp_path / "run", "--set", override, code=1)


def test_an_empty_and_a_lonely_data_set_are_refused(world, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    words = ("run", world.recipe, "--output", tmp_path / "run", "--set")
    assert "no groups" in call(*words, f"data.path={tmp_path / 'empty.jsonl'}", code=1)
    line = (world.folder / "world/groups.jsonl").read_text().splitlines()[0]
    (tmp_path / "one.jsonl").write_text(line + "\n")
    root = f"data.root={world.folder / 'world'}"
    output = call(*words, f"data.path={tmp_path / 'one.jsonl'}", "--set", root, code=1)
    assert re.search("[01] groups in the training split", output)


def test_exit_codes_and_no_traceback_unless_asked(world, tmp_path):
    wrong = shell("run", tmp_path / "absent.toml")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("error: cannot read the recipe")
    assert "Traceback" not in wrong.stderr
    assert "Traceback" in shell("run", tmp_path / "absent.toml", "--debug").stderr
    assert shell("run").returncode == 2
    assert shell("evaluate", "retrieval", world.run).returncode == 2


def test_a_folder_that_cannot_be_written_is_named(world, tmp_path):
    (tmp_path / "file").write_text("")
    output = call("run", world.recipe, "--output", tmp_path / "file" / "run", code=1)
    assert "a file stands where a folder is expected" in output


def test_an_unknown_task_is_named(world, tmp_path):
    message = call("evaluate", "retreival", world.run, "--data", tmp_path, code=2)
    assert "No such command" in message
    assert "retreival" in message


@pytest.mark.parametrize(
    ("task", "option"),
    [
        ("retrieval", "--template"),
        ("zero-shot", "--key"),
        ("linear-probe", "--calibration"),
        ("fine-tuning", "--column"),
        ("text-similarity", "--test"),
    ],
)
def test_an_option_that_a_task_does_not_read_is_refused(task, option, tmp_path):
    message = call("evaluate", task, tmp_path, "--data", tmp_path, option, "x", code=2)
    assert "No such option" in message
    assert option in message


def test_embed_that_embedded_nothing_fails(world, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    words = ("--modality", "image", tmp_path / "broken.png", "--output", tmp_path / "out.npy")
    output = call("embed", world.run, *words, code=1)
    assert "could be embedded" in output
    assert "unreadable image" in output
    assert not (tmp_path / "out.npy").exists()


def test_embed_takes_a_column_of_a_table(world, tmp_path):
    table = world.folder / "world/groups.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    words = ("--modality", "text", table, "--column", "text", "--output", tmp_path / "out.npy")
    call("embed", world.run, *words)
    texts = [text for row in rows for text in (row["text"] if isinstance(row["text"], list) else [row["text"]])]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), lightcrl.load(world.run).encode(texts, "text"), atol=1e-5)
    assert len(json.loads((tmp_path / "out.json").read_text())["ids"]) == len(texts)
    wrong = (*words[:4], "words", *words[5:])
    assert "unknown column 'words'" in call("embed", world.run, *wrong, code=1)


def test_quiet_prints_errors_and_the_json_asked_for_only(world):
    assert call("--quiet", "info", world.run) == ""
    assert json.loads(call("--quiet", "info", world.run, "--json", "-"))["parameters"]
    assert "error: " in call("--quiet", "info", world.folder / "nothing", code=1)
    found = shell("info", world.run, "--quiet")
    assert (found.returncode, found.stdout) == (0, "")
    assert call("info", world.run) != ""


def test_short_help_and_shell_completion_are_there(world):
    assert call("run", "-h") == call("run", "--help")
    assert "--install-completion" in call("--help")


def test_an_error_of_our_own_is_said_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightcrl", "info", "x"])
    monkeypatch.setattr("lightcrl.checkpoint.load_checkpoint", lambda place: 1 / 0)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    assert "internal error: ZeroDivisionError: division by zero. Run again with --debug" in capsys.readouterr().err


def test_interrupted_it_stops_cleanly_and_goes_on(world, tmp_path):
    words = ["run", world.recipe, "--output", tmp_path / "run", "--set", "training.epochs=4000"]
    words += ["--set", "evaluation.baselines=[]"]
    log = tmp_path / "run/log.jsonl"
    with Program(COMMAND, *words) as process:
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and not (log.exists() and log.read_text().count("evaluation") > 2):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        error = process.stderr.read()
    assert "interrupted. Complete results are kept" in error
    assert "Traceback" not in error
    epochs = lightcrl.load_checkpoint(tmp_path / "run/last")
    assert epochs.name == "dfe"


def test_evaluate_takes_only_the_modalities_whose_columns_are_given(tmp_path):
    """A model of three modalities is measured on two."""
    overrides = ["data.options.groups=60", "training.epochs=1", "method.canonical=0"]
    overrides.append(f"features.folder={tmp_path / 'features'}")
    recipe = Path(__file__).parents[1] / "recipes/world.toml"
    lightcrl.run(recipe, overrides, tmp_path / "run")
    write_table(tmp_path / "new", 12, 5)
    words = ("--data", tmp_path / "new/groups.jsonl", "--column", "audio=audio", "--text-column", "text")
    call("evaluate", "retrieval", tmp_path / "run", *words, "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert {name.partition("/")[0] for name in found["counts"]} == {"audio_to_text", "text_to_audio"}


def test_a_class_of_ones_own_is_found_where_one_stands(world, tmp_path):
    (tmp_path / "my_lab.py").write_text(
        "import numpy as np\n"
        "class Letters:\n"
        "    def __init__(self, dim):\n"
        "        self.dim = dim\n"
        "    def encode(self, items):\n"
        "        codes = [[ord(c) % self.dim for c in item] for item in items]\n"
        "        return np.stack([np.bincount(code, minlength=self.dim) for code in codes]) * 1.0\n"
    )
    words = ["run", world.recipe, "--output", "run", "--set", "encoders.text.model=my_lab:Letters"]
    words += ["--set", "evaluation.baselines=[]", "--set", "training.epochs=1"]
    done = shell(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert lightcrl.load_checkpoint(tmp_path / "run").encoders["text"].model == "my_lab:Letters"


def test_a_checkpoint_cannot_make_you_run_its_encoders_code(world):
    checkpoint = lightcrl.load_checkpoint(world.run)
    spec = checkpoint.encoders["text"]
    checkpoint.encoders["text"] = spec.model_copy(update={"trust_remote_code": True})
    with pytest.raises(lightcrl.LightCRLError, match=r"runs code that comes with it\. If you trust its authors"):
        lightcrl.Embedder(checkpoint).encode(["x"], "text")


def test_a_refused_command_leaves_the_console_as_it_was():
    """An argument refused after `--json -` sent tables of all later commands of the process to standard error."""
    refused = CliRunner().invoke(app, ["info", "--json", "-"])
    assert refused.exit_code == 2
    assert progress.console.stderr is False
