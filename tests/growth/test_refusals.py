"""Every refusal of the table, by what it says."""

from __future__ import annotations

import pytest

from lightcrl.errors import GrowthError
from lightcrl.growth.refusals import REFUSALS, Growth, check_growth
from lightcrl.methods import Method
from lightcrl.methods.spec import make_method
from lightcrl.tokens import TokenSpec

SPECS = {"image": TokenSpec(6, 2), "text": TokenSpec(5)}


def method(name: str = "dfe", modalities: tuple[str, ...] = ("image", "text")) -> Method:
    specs = {modality: SPECS.get(modality, TokenSpec(4)) for modality in modalities}
    return make_method(name, specs, {"dim": 16}, "info_nce")


THREE = ("image", "sound", "text")
CASES = [
    (Growth(method("asif"), ("audio",)), "ASIF cannot be extended: its weights are the training pairs themselves"),
    (Growth(method("sharelock"), ("image",), "image"), "'image' is the locked modality, whose features are"),
    (Growth(method(), ("audio",), "audio"), "--replace 'audio', but the model has image, text. Name one of these"),
    (
        Growth(method(), ("audio", "text"), "text"),
        r"the recipe has encoders for audio, text. Expected \[encoders.text\]",
    ),
    (Growth(method(), ("image",)), "the model has image already. Give the new modality another name, or replace"),
    (Growth(method(), ("audio",), None, ("smell",)), "no modality smell in this model; it has image, text"),
    (Growth(method(), ("audio",), None, ("image",), ("text",)), "weights of text, which is neither among partners nor"),
    (Growth(method(), ("audio",), tuned=("text",)), r"\[tuning\] of text, but an extension leaves every old embed"),
    (Growth(method(), ("audio",), tuned=("audio",)), r"\[tuning\] of audio, but an extension trains stem, pool and"),
    (Growth(method(), removed="audio"), "--remove 'audio', but the model has image, text. Name one"),
    (Growth(method(), removed="text"), "the model has image, text alone; expected two modalities or more to remain"),
    (Growth(method("sharelock", THREE), removed="image"), "'image' is the locked modality, which the embeddings are"),
]


@pytest.mark.parametrize(("given", "message"), CASES)
def test_it_is_refused(given, message):
    with pytest.raises(GrowthError, match=message):
        check_growth(given)


def test_every_refusal_of_the_table_is_met_and_nothing_else_is_refused():
    met = [next(number for number, refusal in enumerate(REFUSALS) if refusal.when(given)) for given, _ in CASES]
    assert met == list(range(len(REFUSALS)))
    check_growth(Growth(method(), ("audio", "smell"), None, ("image", "text"), ("text",)))
    check_growth(Growth(method(), ("text",), "text", ("image", "text")))
    check_growth(Growth(method("sharelock", THREE), ("text",), "text"))
    check_growth(Growth(method(modalities=THREE), removed="text"))
