"""A checkpoint is whole, or it is refused with the leaf that is wrong."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightcrl.checkpoint import Checkpoint, load_checkpoint, load_folder, load_models
from lightcrl.encoders.base import EncoderSpec
from lightcrl.errors import CheckpointError
from lightcrl.methods.spec import make_method
from lightcrl.tokens import TokenBatch, TokenSpec
from samples import ragged, randn


def checkpoint(loss: str = "info_nce") -> Checkpoint:
    method = make_method("dfe", {"image": TokenSpec(6, 2), "text": TokenSpec(5)}, {"dim": 8, "heads": 2}, loss, seed=3)
    method.stem("image").fit(TokenBatch.full(randn(20, 2, 6)))
    return Checkpoint(
        method.eval(),
        name="dfe",
        loss=loss,
        encoders={
            "image": EncoderSpec(kind="image", model="org/vit", revision="abc"),
            "text": EncoderSpec(kind="text", model="/somewhere/bert"),
        },
        fingerprints={"image": "f1", "text": "f2"},
        recipe={"name": "birds"},
        figures={"split": "dev", "metrics": {"mean_recall@1": 0.25}, "interval": {"mean_recall@1": [0.2, 0.3]}},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint().save(tmp_path / "saved")
    return tmp_path / "saved"


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_what_is_loaded_embeds_as_what_was_saved(tmp_path, loss):
    saved = checkpoint(loss)
    saved.save(tmp_path / "saved")
    loaded = load_folder(tmp_path / "saved")
    tokens = ragged([3, 1, 2], 5)
    torch.testing.assert_close(loaded.method("text", tokens), saved.method("text", tokens), rtol=0, atol=0)
    assert loaded.method.scale == saved.method.scale
    assert (loaded.method.logit_bias is None) == (loss == "info_nce")
    for attribute in ("name", "loss", "encoders", "fingerprints", "recipe", "figures"):
        assert getattr(loaded, attribute) == getattr(saved, attribute)


def test_the_models_of_a_run_are_called_by_method_and_where_needed_by_seed(tmp_path):
    own = checkpoint()
    own.recipe["evaluation"] = {"seeds": [7, 2]}
    own.save(tmp_path / "run/best")
    assert list(load_models(tmp_path / "run")) == ["dfe"]
    checkpoint().save(tmp_path / "run/others/dfe-seed2/best")
    (tmp_path / "run/others/linear-seed7/last").mkdir(parents=True)  # not finished
    assert list(load_models(tmp_path / "run")) == ["dfe-seed7", "dfe-seed2"]
    assert load_models(tmp_path / "run")["dfe-seed7"].recipe == own.recipe
    assert list(load_models(tmp_path / "run/others/dfe-seed2")) == ["dfe"]
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        load_models(tmp_path)


def test_the_hubs_own_mixin_saves_and_loads(tmp_path):
    saved = checkpoint()
    saved.save_pretrained(tmp_path / "hub")
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == [
        "README.md",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
    ]
    loaded = Checkpoint.from_pretrained(tmp_path / "hub")
    assert loaded.fingerprints == saved.fingerprints
    assert torch.equal(loaded.method.state_dict()["block.0.weight"], saved.method.state_dict()["block.0.weight"])


def test_push_to_hub_uploads_the_files(monkeypatch):
    from huggingface_hub import HfApi

    seen = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda self, **given: type("Repo", (), {"repo_id": given["repo_id"]}))
    monkeypatch.setattr(
        HfApi,
        "upload_folder",
        lambda self, **given: seen.update(
            repo=given["repo_id"], files={p.name for p in Path(given["folder_path"]).iterdir()}
        ),
    )
    checkpoint().push_to_hub("someone/birds")
    names = {"README.md", "config.json", "config_sentence_transformers.json", "model.safetensors", "modules.json"}
    assert seen == {"repo": "someone/birds", "files": names}


def test_the_model_card_has_figures_parameters_and_no_private_path(folder):
    card = (folder / "README.md").read_text()
    assert "# birds" in card
    assert "| mean_recall@1 | 0.250 | 0.200 to 0.300 |" in card
    assert "`org/vit`" in card
    assert "/somewhere" not in card
    assert f"| block | {sum(p.numel() for p in checkpoint().method.block.parameters()):,} |" in card


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_torn_file_is_refused(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=f"{name} is .*torn"):
        load_folder(folder)


def test_a_changed_number_is_refused_naming_the_leaf_and_both_digests(folder):
    tensors = load_file(folder / "model.safetensors")
    expected = json.loads((folder / "config.json").read_text())["tensors"]["block.0.bias"]["digest"]
    tensors["block.0.bias"][2] += 1e-3
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"leaf 'block\.0\.bias' is .*digest.*, expected .*{expected}"):
        load_folder(folder)


def test_a_missing_an_added_and_a_reshaped_leaf_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if name != "block.0.bias"}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"leaf 'block\.0\.bias' is nothing, expected {"):
        load_folder(folder)
    save_file({**tensors, "extra": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"leaf 'extra' is {.*}, expected nothing"):
        load_folder(folder)
    save_file({**tensors, "block.0.bias": torch.ones(3)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"leaf 'block\.0\.bias' is {'shape': \[3\].*expected {'shape': \[4\]"):
        load_folder(folder)


def test_a_newer_format_is_refused(folder):
    edit(folder, format=99)
    with pytest.raises(CheckpointError, match=r"format is 99, this version reads up to 5\. Install a newer lightcrl"):
        load_folder(folder)


def test_a_hand_edited_config_is_refused_but_not_the_place_of_an_encoder(folder):
    config = json.loads((folder / "config.json").read_text())
    config["modalities"]["text"]["encoder"]["model"] = "/moved/bert"
    edit(folder, **config)
    assert load_folder(folder).encoders["text"].model == "/moved/bert"
    config["method"]["options"]["heads"] = 4
    edit(folder, **config)
    with pytest.raises(CheckpointError, match=r"config\.json has digest \w+, expected \w+: it was changed by hand"):
        load_folder(folder)


def test_nothing_is_ever_unpickled(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="torn"):
        load_folder(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_runs_folder_stands_for_its_best_checkpoint(tmp_path):
    checkpoint().save(tmp_path / "run/best")
    assert load_checkpoint(tmp_path / "run").recipe == {"name": "birds"}


def test_saving_stopped_between_its_moves_leaves_a_whole_checkpoint(folder):
    folder.rename(folder.with_name("saved.ready.tmp"))
    assert load_checkpoint(folder).recipe == {"name": "birds"}


def test_nowhere_and_unreachable_are_said(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*: expected config\.json there or in .*best"):
        load_checkpoint(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="no such folder, and the hub gave"):
        load_checkpoint("nobody/nothing")
