"""Finding, fingerprinting and loading models of the transformers library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from lightcrl.encoders import Encoder, EncoderSpec, files, load_encoder, settled
from lightcrl.encoders.base import Slot
from lightcrl.encoders.files import FILES, content_digest, folder_digest, quiet
from lightcrl.encoders.huggingface import HuggingFaceEncoder
from lightcrl.encoders.layout import slots_of, write_layout
from lightcrl.errors import EncoderError, EncoderNotFoundError


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def copy(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "elsewhere"))


def text(folder: Path | str, **settings: object) -> Encoder:
    return load_encoder(EncoderSpec.model_validate({"kind": "text", "model": str(folder), **settings}))


@pytest.mark.parametrize("model", ["./nowhere", "../no/where", "/no/such/folder", "~/no-such-folder"])
def test_a_missing_folder_is_said_at_once(model, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(EncoderNotFoundError, match=r"local folder .*no.*: not there\nGive a folder that holds"):
        text(model)


@pytest.mark.parametrize("model", ["no-such-user/no-such-model", "a/b/c"])
def test_what_is_neither_here_nor_on_the_hub_names_both(model, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderNotFoundError) as caught:
        text(model, revision="v2")
    message = str(caught.value)
    assert f"local folder {Path.cwd() / model}: not there" in message
    assert f"hub id '{model}' at 'v2': " in message
    assert "hf download" in message


def test_a_hub_id_is_the_folder_that_the_hub_gives(bert, monkeypatch):
    asked = {}

    def download(model, **options):
        asked.update(options, model=model)
        return str(bert)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert text("some/model", revision="main").fingerprint == text(bert).fingerprint
    assert (asked["model"], asked["revision"]) == ("some/model", "main")
    assert asked["allow_patterns"] == list(FILES)
    text("some/model", trust_remote_code=True)
    assert "*.py" in asked["allow_patterns"]


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(EncoderError, match=r"expected a folder with a config\.json"):
        text(tmp_path)


def test_pickled_weights_are_never_loaded(copy):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"no weights in \*\.safetensors.*can run code"):
        text(copy)


def test_a_checkpoint_that_lacks_weights_is_refused(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    encoder = text(copy)
    with pytest.raises(EncoderError, match=r"lacks 1 of the model's \d+ weights.*encoder\.layer\.1\.output\.dense"):
        _ = encoder.dim


def test_a_missing_pooler_does_not_matter(copy, bert):
    weights = load_file(copy / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "pooler" not in k}, copy / "model.safetensors", {"format": "pt"})
    one, other = text(copy), text(bert)
    item = one.prepare("a red dog")
    torch.testing.assert_close(one.encode([item]).values, other.encode([item]).values, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "missing"), [("image", "image processor"), ("audio", "feature extractor")])
def test_a_model_of_another_kind_is_refused(kind, missing, bert):
    with pytest.raises(EncoderError, match=f"cannot load the {missing} of .* as a {kind} encoder"):
        load_encoder(EncoderSpec(kind=kind, model=str(bert)))


def test_a_broken_config_is_an_encoder_error(copy):
    (copy / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(EncoderError, match=r"cannot load the model .*no-such-type"):
        text(copy)


def test_code_that_comes_with_a_model_is_not_run_unasked(copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "code.Config"}}
    (copy / "config.json").write_text(json.dumps(config))
    mark = tmp_path / "it ran"
    (copy / "code.py").write_text(f"open({str(mark)!r}, 'w')")
    with pytest.raises(EncoderError, match="trust_remote_code = true"):
        text(copy)
    assert not mark.exists()


def test_hidden_states_that_are_not_finite_are_refused(copy):
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.2.output.dense.bias"][0] = torch.inf
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match="not finite in float32"):
        _ = text(copy).dim


def test_random_masking_is_refused(tmp_path):
    encoder = load_encoder(EncoderSpec(kind="image", model=str(tiny.mae(tmp_path))))
    with pytest.raises(EncoderError, match="other hidden states each time"):
        _ = encoder.dim


def test_weights_are_loaded_when_first_needed(bert, monkeypatch):
    monkeypatch.setattr(HuggingFaceEncoder, "_load", lambda _: pytest.fail("loaded"))
    encoder = text(bert)
    assert len(encoder.fingerprint) == 32
    assert encoder.length(encoder.prepare("a red dog")) == 5


def test_loading_leaves_the_generator_and_the_log_as_they_were(bert, capfd):
    from transformers.utils import logging

    logging.set_verbosity_warning()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert text(bert).dim == 32
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert logging.get_verbosity() == logging.WARNING
    assert logging.set_tqdm_hook(None) is None
    assert capfd.readouterr() == ("", "")


def test_quiet_gives_back_what_it_took_after_an_error():
    from transformers.utils import logging

    before = logging.get_verbosity()
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert logging.get_verbosity() == before
    assert logging.set_tqdm_hook(None) is None


def test_the_fingerprint_does_not_depend_on_the_place(bert, copy):
    (copy / "README.md").write_text("about it")
    (copy / "pytorch_model.bin").write_bytes(b"never read")
    encoders = [text(bert), text(copy), text(copy, batch_size=3, device="cpu")]
    assert len({encoder.fingerprint for encoder in encoders}) == 1


def test_the_fingerprint_depends_on_all_that_decides_the_tokens(bert, copy, tmp_path):
    settings = [
        {"layers": (-1,)},
        {"layers": (-2,)},
        {"tokens": "mean"},
        {"tokens": "all"},
        {"dtype": "bfloat16"},
        {"max_length": 10},
    ]
    marks = [text(bert, **setting).fingerprint for setting in ({}, *settings)]
    marks.append(text(tiny.bert(tmp_path / "other", seed=1)).fingerprint)
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.4.output.dense.bias"][0] += 1e-6
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    marks.append(text(copy).fingerprint)
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**config, "truncation_side": "left"}))
    marks.append(text(copy).fingerprint)
    assert len(set(marks)) == len(marks)


def test_files_are_read_for_the_fingerprint_once(bert, monkeypatch):
    calls = []
    monkeypatch.setattr(files, "content_digest", lambda path: calls.append(path.name) or "0")
    encoder = text(bert)
    assert calls == []
    assert encoder.fingerprint == encoder.fingerprint
    assert sorted(calls) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_a_large_file_is_known_by_its_length_and_by_samples(tmp_path):
    path = tmp_path / "large"
    data = bytearray(range(256)) * 4

    def digest() -> str:
        path.write_bytes(data)
        return content_digest(path, whole=500, chunks=4, size=100)

    first = digest()
    assert digest() == first
    # The first, two inner and the last chunk begin at 0, 308, 616 and 924; what lies between is not read.
    data[200] ^= 1
    assert digest() == first
    for place in (0, 310, 700, 1023):
        data[place] ^= 1
        assert digest() != first
        data[place] ^= 1
    data.extend(b"x")
    assert digest() != first


def test_a_small_file_is_known_by_every_byte(tmp_path):
    path = tmp_path / "small"
    digests = set()
    for place in range(0, 300, 50):
        path.write_bytes(bytes(place) + b"x" + bytes(299 - place))
        digests.add(content_digest(path, whole=500, chunks=4, size=100))
    assert len(digests) == 6


def test_a_folder_digest_knows_names_and_contents_of_what_matches(tmp_path):
    (tmp_path / "config.json").write_text("1")
    first = folder_digest(tmp_path)
    (tmp_path / "notes.md").write_text("2")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "config.json").write_text("3")
    assert folder_digest(tmp_path) == first
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    assert folder_digest(tmp_path) != first


def test_a_device_that_is_not_there_is_refused(bert):
    with pytest.raises(EncoderError, match="device 'warp' cannot be used here"):
        text(bert, device="warp")


def test_layers_that_are_not_there_are_refused(bert):
    with pytest.raises(EncoderError, match="layer 5 of a model with 5 blocks; expected -5 to 4"):
        _ = text(bert, layers=(5,)).dim


def test_options_of_a_transformers_model_are_refused(bert):
    with pytest.raises(EncoderError, match="options colour"):
        text(bert, options={"colour": "red"})


@pytest.mark.parametrize("model", ["bert", "t5", "vit", "registers", "resnet", "mobilenet"])
def test_all_choices_at_once_are_what_each_of_them_gives(model, tmp_path):
    """Slots of one pass over all layers are the tokens of an encoder that was asked for those alone."""
    kind, make = tiny.MODELS[model]
    spec = EncoderSpec(kind=kind, model=str(make(tmp_path / model)))
    encoder = load_encoder(spec)
    choices = encoder.choices()
    assert choices.chosen == choices.auto
    assert len(choices.slots) == choices.encoder.slots
    assert choices.encoder.fingerprint != encoder.fingerprint
    items = [encoder.prepare(item) for item in tiny.ITEMS[kind]()]
    everything = choices.encoder.encode(items).values
    for slots in (choices.auto, choices.slots[:1], (choices.slots[-1], choices.slots[0])):
        layers, tokens = write_layout(slots)
        own = load_encoder(spec.model_copy(update={"layers": layers, "tokens": tokens}))
        mine = own.encode(items).values
        order = slots_of(layers, tokens)
        assert set(order) == set(slots)
        for place, slot in enumerate(order):
            wide = everything[:, choices.slots.index(slot)]
            assert torch.allclose(wide[:, : mine.shape[2]], mine[:, place], atol=1e-5)
            assert not wide[:, mine.shape[2] :].any()
        assert own.choices().chosen == order


def test_patches_and_words_are_no_choice_of_pools(bert):
    choices = text(bert, layers=[1, -5], tokens="all").choices()
    assert choices.chosen is None
    assert choices.auto[0] == Slot(-1, "mean")
    assert text(bert, layers=[1, -5], tokens="mean").choices().chosen == (Slot(-4, "mean"), Slot(-5, "mean"))


@pytest.mark.parametrize(("able", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_dtype_auto_takes_bfloat16_for_transformers_where_the_machine_multiplies_in_it(
    tmp_path, monkeypatch, able, expected
):
    monkeypatch.setattr("lightcrl.encoders.huggingface.multiplies_bfloat16", lambda device: able)
    bert = load_encoder(EncoderSpec(kind="text", model=str(tiny.bert(tmp_path / "bert")), dtype="auto"))
    assert bert.spec.dtype == expected
    assert bert.loaded.network.dtype == getattr(torch, expected)
    auto = EncoderSpec(kind="text", model=str(tmp_path / "bert"), dtype="auto")
    assert settled(auto, bert) == auto.model_copy(update={"dtype": expected})
    builtin = EncoderSpec(kind="text", model="builtin", dtype="auto")
    assert settled(builtin, load_encoder(builtin)) == builtin
    # It stands for the precision that it means here, so that a store says what it holds.
    plain = EncoderSpec(kind="text", model=str(tmp_path / "bert"), dtype=expected)
    assert bert.fingerprint == load_encoder(plain).fingerprint
    # Convolutions lose more than a thousandth, and random weights are there to be trained.
    resnet = load_encoder(EncoderSpec(kind="image", model=str(tiny.resnet(tmp_path / "resnet")), dtype="auto"))
    assert resnet.spec.dtype == "float32"
    random = EncoderSpec(kind="text", model=str(tmp_path / "bert"), dtype="auto", weights="random")
    assert load_encoder(random).spec.dtype == "float32"
    # For what has one precision alone it is no setting that would be ignored.
    assert load_encoder(EncoderSpec(kind="text", model="builtin", dtype="auto")).dim == 512


def test_bfloat16_keeps_the_direction_of_features(tmp_path):
    folder = str(tiny.bert(tmp_path))
    exact, fast = (load_encoder(EncoderSpec(kind="text", model=folder, dtype=d)) for d in ("float32", "bfloat16"))
    prepared = [exact.prepare(text) for text in tiny.ITEMS["text"]()]
    one, other = exact.encode(prepared), fast.encode(prepared)
    assert other.values.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(one.values[one.mask], other.values[other.mask], dim=-1)
    assert 0.999 < cosine.min() < 1
