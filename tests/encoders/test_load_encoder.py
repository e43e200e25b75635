"""What `model` may name, and how the user's own encoder is held to the contract."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lightcrl.encoders import BUILTIN, ENCODERS, Encoder, EncoderSpec, OwnEncoder, load_encoder
from lightcrl.errors import EncoderError, LightCRLError, ShapeError, UnknownNameError
from lightcrl.tokens import TokenBatch
from tiny import TEXTS, LetterTokens
from worlds import Digits


def text(model: str, **settings: Any) -> Encoder:
    return load_encoder(EncoderSpec.model_validate({"kind": "text", "model": model, **settings}))


def tokens(encoder: Encoder, *items: Any) -> TokenBatch:
    return encoder.encode([encoder.prepare(item) for item in items])


def own(encode: Callable[[list[Any]], Any], **attributes: Any) -> OwnEncoder:
    """An object with this `encode`, adapted."""
    made = type("Made", (), {"encode": staticmethod(encode), **attributes})()
    return OwnEncoder(made, EncoderSpec(kind="text", model="lab:Made"))


def test_the_tables_hold_what_they_name():
    assert set(ENCODERS) == {"text", "image", "audio", "vectors"}
    for name in ENCODERS:
        assert callable(ENCODERS.load(name))
    assert [BUILTIN.load(name).kind for name in BUILTIN] == ["text", "image", "audio"]


def test_importing_it_is_light():
    heavy = ["transformers", "sklearn", "skimage", "scipy", "soundfile", "PIL", "huggingface_hub"]
    script = f"import lightcrl.encoders, sys; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_builtin_is_that_of_the_kind():
    assert text("builtin").describe() == text("builtin:ngrams").describe()
    for kind, name in (("image", "shapes"), ("audio", "mel")):
        assert load_encoder(EncoderSpec(kind=kind, model="builtin")).describe()["encoder"] == f"builtin:{name}"


def test_a_builtin_of_another_kind_or_none_is_refused():
    with pytest.raises(EncoderError, match=r"'builtin:mel' does not encode text"):
        text("builtin:mel")
    with pytest.raises(UnknownNameError, match="Did you mean 'ngrams'"):
        text("builtin:ngram")


def test_options_reach_the_class():
    assert text("builtin", options={"dim": 64}).dim == 64
    assert text("tiny:Letters", options={"alphabet": "abc"}).encode(["abba"]).values.tolist() == [[[2, 2, 0]]]


@pytest.mark.parametrize("model", ["builtin", "tiny:Letters"])
def test_unknown_options_are_refused(model):
    with pytest.raises(EncoderError, match=r"unexpected keyword argument 'colour'\. Its constructor has: "):
        text(model, options={"colour": "red"})


@pytest.mark.parametrize(
    "setting",
    [{"layers": (-1,)}, {"tokens": "mean"}, {"dtype": "bfloat16"}, {"revision": "v1"}, {"max_length": 9}],
    ids=lambda setting: next(iter(setting)),
)
@pytest.mark.parametrize("model", ["builtin", "tiny:Letters"])
def test_settings_that_would_be_ignored_are_refused(model, setting):
    with pytest.raises(EncoderError, match=f"does not take {next(iter(setting))}"):
        text(model, **setting)


def test_settings_that_a_class_names_reach_it():
    spec = EncoderSpec(kind="image", model="builtin", max_pixels=7)
    assert load_encoder(spec).max_pixels == 7
    assert load_encoder(EncoderSpec(kind="audio", model="builtin", max_length=2.5)).max_length == 2.5


def test_batch_size_and_device_are_always_allowed():
    assert text("worlds:Digits").batch_size == 7
    assert text("worlds:Digits", batch_size=3, device="cpu").batch_size == 3
    assert text("tiny:Letters", batch_size=3).batch_size == 3


@pytest.mark.parametrize(
    "table",
    [
        {"kind": "image", "model": "builtin", "max_length": 3},
        {"kind": "text", "model": "builtin", "max_pixels": 3},
        {"kind": "text", "model": "builtin", "tokens": "median"},
        {"kind": "text", "model": "builtin", "tokens": "mean+"},
        {"kind": "text", "model": "builtin", "dtype": "float64"},
        {"kind": "smell", "model": "builtin"},
        {"kind": "text", "model": "builtin", "colour": "red"},
    ],
    ids=lambda table: str(list(table.items())[-1]),
)
def test_a_table_that_does_not_hold_together_is_refused(table):
    with pytest.raises(ValidationError):
        EncoderSpec.model_validate(table)


def test_a_class_that_is_not_there_is_refused():
    with pytest.raises(LightCRLError, match=r"cannot import 'no_such_module'.*PYTHONPATH"):
        text("no_such_module:Class")
    with pytest.raises(LightCRLError, match="has no 'Nothing'"):
        text("tiny:Nothing")
    with pytest.raises(EncoderError, match=r"gave a Fraction without encode\(items\)"):
        text("fractions:Fraction")
    with pytest.raises(EncoderError, match=r"'math:pi' is 3\.14.*; expected a class"):
        text("math:pi")


def test_a_subclass_of_another_kind_is_refused():
    with pytest.raises(EncoderError, match="has kind = 'text', but the recipe says 'audio'"):
        load_encoder(EncoderSpec(kind="audio", model="worlds:Digits"))


def test_a_subclass_is_taken_as_it_is():
    assert isinstance(text("worlds:Digits", options={"version": 4}), Digits)


def test_an_array_of_two_axes_is_one_token_per_item():
    found = tokens(text("tiny:Letters", options={"alphabet": "ad"}), *TEXTS[:2])
    assert found.values.tolist() == [[[1, 2]], [[0, 1]]]
    assert found.values.dtype == torch.float32


def test_an_array_of_three_axes_and_a_batch_are_tokens():
    assert tokens(own(lambda items: np.ones((len(items), 4, 3))), "a", "b").values.shape == (2, 4, 3)
    found = tokens(text("tiny:LetterTokens", options={"alphabet": "ad"}), "a dad", "dad")
    assert (found.values.dtype, found.lengths.tolist()) == (torch.float32, [2, 1])


@pytest.mark.parametrize("kind", [list, torch.tensor, np.array])
def test_lists_tensors_and_arrays_will_do(kind):
    assert tokens(own(lambda items: kind([[1.0, 2.0]] * len(items))), "a").values.tolist() == [[[1, 2]]]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.ones(2), r"gave an array of shape \[2\]; expected \[B, D\] or \[B, T, D\]"),
        (np.ones((3, 4)), r"gave tokens of shape \[3, 1, 4\] for 2 items; expected \[2, T, D\]"),
    ],
)
def test_an_output_of_another_shape_is_refused(output, message):
    with pytest.raises(ShapeError, match=message):
        tokens(own(lambda _: output), "a", "b")


def test_an_output_of_another_width_than_before_is_refused():
    with pytest.raises(ShapeError, match=r"expected \[1, T, 5\]"):
        tokens(own(lambda items: np.ones((len(items), 4)), dim=5), "a")
    changing = own(lambda items: np.ones((len(items), len(items[0]))))
    assert tokens(changing, "abc").dim == 3
    with pytest.raises(ShapeError, match=r"expected \[1, T, 3\]"):
        tokens(changing, "abcd")


def test_its_tokens_can_be_trained_on_even_if_made_in_inference_mode():
    found = tokens(own(torch.inference_mode()(lambda items: torch.ones(len(items), 2))), "a")
    torch.nn.Linear(2, 1)(found.values).sum().backward()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_refused(value):
    with pytest.raises(EncoderError, match="not finite"):
        tokens(own(lambda items: np.full((len(items), 2), value)), "a")
    hidden = TokenBatch(torch.tensor([[[1.0], [value]]]), torch.tensor([[True, False]]))
    assert tokens(own(lambda _: hidden), "a").lengths.tolist() == [1]


def test_the_width_is_known_beforehand_or_after_the_first_batch():
    encoder = own(lambda items: np.ones((len(items), 4)))
    with pytest.raises(EncoderError, match="has encoded nothing yet; an attribute `dim`"):
        _ = encoder.dim
    tokens(encoder, "a")
    assert encoder.dim == 4
    assert own(lambda _: None, dim=9, slots=2).dim == 9
    assert own(lambda _: None, dim=9, slots=2).slots == 2


def test_its_own_prepare_is_used():
    encoder = own(lambda items: np.array([[item] for item in items]), prepare=lambda self, raw: int(raw) * 2)
    assert tokens(encoder, "4", "5").values.flatten().tolist() == [8, 10]


def test_networks_that_it_holds_are_frozen():
    class Made(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Dropout(0.9))

        def encode(self, items: list[str]) -> torch.Tensor:
            return self.layer(torch.tensor([[float(len(item))] for item in items]))

    class Holder:
        def __init__(self, made: Made) -> None:
            self.network = made

        def encode(self, items: list[str]) -> torch.Tensor:
            return self.network.encode(items)

    for made in (Made(), Holder(Made())):
        encoder = OwnEncoder(made, EncoderSpec(kind="text", model="lab:Made"))
        one, other = tokens(encoder, "a", "bcd"), tokens(encoder, "a", "bcd")
        torch.testing.assert_close(one.values, other.values, rtol=0, atol=0)
        assert not one.values.requires_grad


def test_its_fingerprint_is_that_of_class_options_and_mark(monkeypatch):
    marks = [
        text("tiny:Letters").fingerprint,
        text("tiny:Letters", options={"alphabet": "ab"}).fingerprint,
        text("tiny:LetterTokens").fingerprint,
    ]
    monkeypatch.setattr(LetterTokens, "fingerprint", "v2")
    marks.append(text("tiny:LetterTokens").fingerprint)
    monkeypatch.setattr(LetterTokens, "fingerprint", lambda self: "v3")
    marks.append(text("tiny:LetterTokens").fingerprint)
    assert len(set(marks)) == len(marks)
    assert text("tiny:Letters", batch_size=2, device="cpu").fingerprint == marks[0]
