"""Folders of sentence-transformers, against what that library itself makes of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import tiny
from lightcrl.encoders import Encoder, EncoderSpec, load_encoder
from lightcrl.encoders.files import quiet
from lightcrl.encoders.sentence_transformers import read_sentence_model
from lightcrl.encoders.tower import Tower, TuningSpec
from lightcrl.errors import EncoderError, ItemError

MODELS: Mapping[str, Callable[[Path], Path]] = {
    "bert": tiny.bert,
    "qwen3-left": tiny.qwen3,
    "qwen3-right": lambda folder: tiny.qwen3(folder, "right"),
    "xlnet": tiny.xlnet,
}
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
OLD = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write(
    folder: Path, pooling: Mapping[str, Any], modules: Sequence[str] = (), config: Mapping[str, Any] | None = None
) -> Path:
    """Make the model in `folder` one of sentence-transformers, in the form of its versions 2 to 5."""
    names = ["Transformer", "Pooling", *modules]
    entries = [
        {"idx": n, "name": str(n), "path": f"{n}_{name}" if n else "", "type": f"sentence_transformers.models.{name}"}
        for n, name in enumerate(names)
    ]
    write_json(folder / "modules.json", entries)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **pooling})
    if config is not None:
        write_json(folder / "config_sentence_transformers.json", config)
    if "Dense" in modules:
        place = folder / f"{names.index('Dense')}_Dense"
        settings = {"in_features": 32, "out_features": 48, "bias": True}
        write_json(place / "config.json", {**settings, "activation_function": "torch.nn.modules.activation.Tanh"})
        drawn = torch.Generator().manual_seed(3)
        weights = {
            "linear.weight": torch.randn(48, 32, generator=drawn),
            "linear.bias": torch.randn(48, generator=drawn),
        }
        save_file(weights, place / "model.safetensors")
    return folder


def make(folder: Path, **settings: Any) -> Encoder:
    return load_encoder(EncoderSpec.model_validate({"kind": "text", "model": str(folder), **settings}))


def own(encoder: Encoder, texts: Sequence[str] = tiny.TEXTS) -> Tensor:
    return encoder.own_vectors(encoder.encode([encoder.prepare(text) for text in texts]))


def library(folder: Path) -> Any:
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder), device="cpu")


def theirs(folder: Path, texts: Sequence[str] = tiny.TEXTS, **settings: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = library(folder).encode(list(texts), show_progress_bar=False, batch_size=3, **settings)
    return torch.from_numpy(np.asarray(found))


def assert_theirs(folder: Path, texts: Sequence[str] = tiny.TEXTS, **settings: Any) -> None:
    expected = theirs(folder, texts)
    found = own(make(folder, **settings), texts)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_by_itself_it_says_what_the_library_says(name, mode, tmp_path):
    folder = write(MODELS[name](tmp_path), {OLD[mode]: True})
    assert_theirs(folder)
    # One text alone, and in another batch.
    encoder = make(folder)
    torch.testing.assert_close(own(encoder)[3:4], own(encoder, tiny.TEXTS[3:4]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [{"tokens": "all"}, {"tokens": "max|all"}, {"tokens": "trained", "layers": (-1,)}])
@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "weightedmean"])
def test_it_says_so_whatever_tokens_are_kept(layout, mode, tmp_path):
    assert_theirs(write(tiny.bert(tmp_path), {OLD[mode]: True}, ["Normalize"]), **layout)


@pytest.mark.parametrize(
    "modules", [["Normalize"], ["Dense"], ["Dense", "Normalize"], ["Dropout", "Dense", "Dropout"]], ids="+".join
)
def test_what_follows_the_pooling_is_applied(modules, tmp_path):
    folder = write(tiny.bert(tmp_path), {OLD["mean"]: True}, modules)
    for module in [f"{n}_Dropout" for n, name in enumerate(["", "", *modules]) if name == "Dropout"]:
        write_json(folder / module / "config.json", {"dropout": 0.5})
    assert_theirs(folder)
    assert_theirs(folder, tokens="mean")


def test_several_poolings_stand_side_by_side(tmp_path):
    folder = write(tiny.bert(tmp_path), {OLD["mean"]: True, OLD["cls"]: True}, config={"truncate_dim": 40})
    assert_theirs(folder)
    assert make(folder).dim == 40


@pytest.mark.parametrize("mode", ["lasttoken", ["max", "weightedmean"]])
def test_the_form_that_the_library_writes_today_is_read(mode, tmp_path):
    folder = tiny.qwen3(tmp_path / "plain")
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

        width = 32 if isinstance(mode, str) else 64
        dense = Dense(width, 24, activation_function=torch.nn.GELU(), use_residual=True)
        modules = [Transformer(str(folder)), Pooling(32, mode), dense, Normalize()]
        SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "saved"), create_model_card=False)
    config = json.loads((tmp_path / "saved" / "1_Pooling" / "config.json").read_text())
    assert config["pooling_mode"] == mode
    assert_theirs(tmp_path / "saved")


def test_the_model_may_lie_in_a_folder_of_its_own(tmp_path):
    tiny.bert(tmp_path / "0_Transformer")
    folder = write(tmp_path, {OLD["cls"]: True})
    entries = json.loads((folder / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    write_json(folder / "modules.json", entries)
    write_json(folder / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 7, "do_lower_case": True})
    assert make(folder).max_length == 7
    assert_theirs(folder, [text.title() for text in tiny.TEXTS])


def test_auto_has_the_vector_once(tmp_path):
    def tokens(pooling, modules=(), model=tiny.bert):
        encoder = make(write(model(tmp_path / str(len(list(tmp_path.iterdir())))), pooling, modules))
        return encoder.loaded.tokens, encoder.slots, encoder.dim

    plain = make(tiny.bert(tmp_path / "plain")).loaded.tokens
    assert tokens({OLD["mean"]: True}, ["Normalize"]) == (plain, 5, 32)
    assert tokens({OLD["cls"]: True}) == (plain, 5, 32)
    assert tokens({OLD["mean"]: True}, ["Dense"]) == ("mean+cls+max+trained,mean,mean|all", 6, 48)
    assert tokens({OLD["lasttoken"]: True}, model=tiny.qwen3) == ("mean+max+last,mean,mean|all", 5, 32)
    # Without a CLS token, the first token is no pool of the layer.
    assert tokens({OLD["cls"]: True}, model=tiny.qwen3) == ("mean+max+trained,mean,mean|all", 5, 32)


def test_slots_are_those_of_the_model(tmp_path, reference):
    folder = write(tiny.qwen3(tmp_path), {OLD["weightedmean"]: True})
    encoder = make(folder, layers=(-1, -2), tokens="last+trained,last")
    found = encoder.encode([encoder.prepare(text) for text in tiny.TEXTS]).values.double()
    for one, text in zip(found, tiny.TEXTS, strict=True):
        with torch.no_grad():
            output = reference(folder)(**encoder.processor(text, return_tensors="pt"), output_hidden_states=True)
        last, before = output.last_hidden_state[0], output.hidden_states[-2][0]
        weights = torch.arange(1, len(last) + 1).unsqueeze(1) / (len(last) * (len(last) + 1) / 2)
        expected = torch.stack([last[-1], (last * weights).sum(0), before[-1]])
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5)


def test_the_choices_of_a_check_have_the_vector(tmp_path):
    choices = make(write(tiny.qwen3(tmp_path), {OLD["lasttoken"]: True}, ["Dense"])).choices()
    assert [str(slot) for slot in choices.auto] == ["-1 mean", "-1 max", "-1 trained", "-2 mean", "-3 mean"]
    assert set(choices.auto) == set(choices.chosen) <= set(choices.slots)
    tokens = choices.encoder.encode([choices.encoder.prepare(text) for text in tiny.TEXTS])
    assert tokens.values.shape[1:] == (len(choices.slots), choices.encoder.dim) == (len(choices.slots), 48)


@pytest.fixture
def prompted(tmp_path) -> Path:
    prompts = {"query": "a red roof ", "passage": "under ", "plain": ""}
    return write(tiny.bert(tmp_path), {OLD["mean"]: True}, config={"prompts": prompts, "default_prompt_name": "plain"})


@pytest.mark.parametrize(("name", "text"), [("query", "a red roof "), ("document", "under "), (None, ""), ("", "")])
@pytest.mark.parametrize("include", [True, False])
def test_a_prompt_stands_before_every_text(name, text, include, prompted):
    write_json(
        prompted / "1_Pooling" / "config.json",
        {"word_embedding_dimension": 32, OLD["mean"]: True, "include_prompt": include},
    )
    encoder = make(prompted, prompt=name)
    assert encoder.prompt == text
    expected = theirs(prompted, prompt=text)
    torch.testing.assert_close(own(encoder), expected, rtol=1e-5, atol=1e-5)
    assert bool(torch.allclose(expected, theirs(prompted, prompt=""))) == (not text)
    with pytest.raises(ItemError, match="empty text"):
        encoder.prepare(" ")


def test_the_default_prompt_is_the_makers(prompted):
    write_json(
        prompted / "config_sentence_transformers.json",
        {"prompts": {"query": "a red roof "}, "default_prompt_name": "query"},
    )
    assert make(prompted).prompt == "a red roof "
    assert make(prompted, prompt="").prompt == make(prompted, prompt="document").prompt == ""
    assert_theirs(prompted)


def test_a_prompt_that_is_not_there_is_refused(prompted, tmp_path):
    with pytest.raises(EncoderError, match=r"prompt = 'title': .* has the prompts: query, passage, plain"):
        make(prompted, prompt="title")
    with pytest.raises(EncoderError, match="comes without prompts"):
        make(tiny.llama(tmp_path / "llama"), prompt="query")
    with pytest.raises(ValueError, match="prompt is for texts"):
        EncoderSpec(kind="image", model="builtin", prompt="query")
    with pytest.raises(EncoderError, match="does not take prompt"):
        load_encoder(EncoderSpec(kind="text", model="builtin", prompt="query"))


def test_the_length_is_the_makers_unless_the_recipe_says_otherwise(tmp_path):
    folder = write(tiny.bert(tmp_path), {OLD["mean"]: True})
    assert make(folder).max_length == 24
    for said, taken in ((9, 9), (100, 24)):
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": said, "do_lower_case": False})
        assert make(folder).max_length == taken
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": False})
    assert make(folder, max_length=12).max_length == 12
    assert_theirs(folder, ["dog " * 30, "a cat"])


def test_a_model_without_a_limit_loads(tmp_path):
    encoder = make(tiny.xlnet(tmp_path))
    assert encoder.max_length == 512
    assert encoder.encode([encoder.prepare("dog " * 700)]).values.shape[1] == encoder.slots + 512


def test_every_setting_is_part_of_the_fingerprint(prompted):
    marks = [make(prompted).fingerprint, make(prompted, prompt="query").fingerprint]
    marks.append(make(prompted, max_length=12).fingerprint)
    pooling = prompted / "1_Pooling" / "config.json"
    write_json(pooling, {"word_embedding_dimension": 32, "pooling_mode": "cls"})
    marks.append(make(prompted).fingerprint)
    write_json(pooling, {"word_embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": False})
    marks.append(make(prompted).fingerprint)
    write(prompted, {"pooling_mode": "cls"}, ["Dense"])
    marks.append(make(prompted).fingerprint)
    save_file(
        {"linear.weight": torch.zeros(48, 32), "linear.bias": torch.ones(48)}, prompted / "2_Dense/model.safetensors"
    )
    marks.append(make(prompted).fingerprint)
    assert len(set(marks)) == len(marks) == 7


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: write(f, {OLD["mean"]: True}, ["CNN"]), "the module CNN is not read"),
        (lambda f: write(f, {"pooling_mode": "median"}), "the pooling mode 'median' is not read"),
        (lambda f: write_json(f / "modules.json", [{"idx": 0, "path": "", "type": "mine.Model"}]), "mine.Model is not"),
        (lambda f: (f / "1_Pooling" / "config.json").write_text("{"), "is not JSON"),
    ],
)
def test_a_vector_that_cannot_be_made_is_refused_where_it_is_wanted(break_it, message, tmp_path):
    folder = write(tiny.bert(tmp_path), {OLD["mean"]: True})
    break_it(folder)
    with pytest.raises(EncoderError, match=rf"cannot be made: .*{message}.*name pools of them"):
        make(folder)
    encoder = make(folder, tokens="max+mean", layers=(-1,))
    tokens = encoder.encode([encoder.prepare(text) for text in tiny.TEXTS])
    assert torch.equal(encoder.own_vectors(tokens), tokens.values[:, 1])


def test_pickled_weights_of_a_dense_module_are_not_loaded(tmp_path):
    folder = write(tiny.bert(tmp_path), {OLD["mean"]: True}, ["Dense"])
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"no model\.safetensors\. Pickled weights"):
        _ = make(folder).dim


@pytest.mark.parametrize("value", ["{", "[]", '[{"idx": 0}]', '[{"idx": 0, "path": "../x", "type": "a.B"}]'])
def test_a_list_of_modules_that_is_none_is_refused(value, tmp_path):
    (tiny.bert(tmp_path) / "modules.json").write_text(value)
    with pytest.raises(EncoderError, match=r"modules\.json"):
        make(tmp_path)


def test_a_folder_of_transformers_alone_is_not_in_this_layout(tmp_path):
    assert read_sentence_model(tiny.bert(tmp_path)) is None
    with pytest.raises(EncoderError, match="tokens = 'trained', which the last layer alone has"):
        _ = make(tmp_path, tokens="trained").dim


@pytest.mark.parametrize("tokens", ["auto", "mean"])
def test_a_tower_trains_what_follows_the_pooling_where_it_is_kept(tokens, tmp_path):
    encoder = make(write(tiny.bert(tmp_path), {OLD["mean"]: True}, ["Dense", "Normalize"]), tokens=tokens)
    tower = Tower(encoder, TuningSpec(blocks=1))
    trained = {name for name, weight in tower.network.named_parameters() if weight.requires_grad}
    assert any("encoder.layer.4" in name for name in trained)
    assert any(name.startswith("trained_vector.") for name in trained) == (tokens == "auto")
    prepared = [encoder.prepare(text) for text in tiny.TEXTS]
    torch.testing.assert_close(tower(prepared).values, encoder.encode(prepared).values, rtol=1e-5, atol=1e-5)
    tower(prepared).values.pow(2).sum().backward()
    assert {name for name, weight in tower.network.named_parameters() if weight.grad is not None} == trained


def test_texts_that_are_cut_are_known(tmp_path):
    encoder = make(tiny.bert(tmp_path), max_length=6)
    cut = [encoder.cut(encoder.prepare(text)) for text in ("a red dog runs", "a red dog runs on", "dog " * 50, "dog")]
    assert cut == [False, True, True, False]


@pytest.mark.real
def test_minilm_is_what_its_makers_have_made(shared):
    folder = shared / "models" / "all-MiniLM-L6-v2"
    lines = (shared / "data" / "text_pairs" / "stsb_test.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    texts = [json.loads(line)["text1"] for line in lines]
    texts.append(" ".join(texts))
    encoder = make(folder)
    assert (encoder.max_length, encoder.slots, encoder.loaded.tokens) == (256, 5, "mean+cls+max,mean,mean|all")
    found = own(encoder, texts)
    torch.testing.assert_close(found, theirs(folder, texts), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(texts)), rtol=1e-5, atol=1e-5)
    assert [encoder.cut(encoder.prepare(text)) for text in texts] == [False] * 60 + [True]


@pytest.mark.real
def test_a_model_from_before_makers_lengths_were_read_finds_its_encoder(shared):
    """Version 0.1 read 512 tokens of MiniLM, whose makers say 256; its fingerprint stands in saved models."""
    from lightcrl.embedder import _load_as_trained

    spec = EncoderSpec(kind="text", model=str(shared / "models/all-MiniLM-L6-v2"))
    older = _load_as_trained(spec, "aa20a29941bf774ca15110ee38a0351a")
    assert (older.fingerprint, older.max_length) == ("aa20a29941bf774ca15110ee38a0351a", 512)
    assert _load_as_trained(spec, load_encoder(spec).fingerprint).max_length == 256
    assert _load_as_trained(spec, "another").max_length == 256
