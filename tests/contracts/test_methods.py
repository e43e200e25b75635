"""What holds for every method of the table `METHODS`; a new one with options of its own says here how to vary them."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lightcrl.checkpoint import Checkpoint, load_folder
from lightcrl.encoders.base import EncoderSpec
from lightcrl.errors import ModalityError, ShapeError
from lightcrl.features import Features
from lightcrl.losses import LOSSES, info_nce
from lightcrl.methods import METHODS, Method, Stem, Step
from lightcrl.methods.fusion import OPERATIONS
from lightcrl.methods.spec import make_method
from lightcrl.methods.stems import MethodOptions
from lightcrl.tokens import TokenBatch, TokenSpec
from lightcrl.training import loop as training
from lightcrl.training.loop import Trained, _initialise, train
from lightcrl.training.spec import TrainingSpec
from samples import GARBAGE, make_features, padded, ragged, randn

SPECS = {
    "both": TokenSpec(6, slots=2, sequence=True),
    "image": TokenSpec(5),
    "layers": TokenSpec(4, slots=3),
    "text": TokenSpec(7),
}
DIM = 8

# Each method's options, far from chance and without dropout; those that all methods have come first.
COMMON: dict[str, Any] = {"dim": DIM, "input_dropout": 0.0, "standardise": False, "by_slot": True}
OWN: dict[str, dict[str, Any]] = {
    "dfe": {
        "fusion": "addition", "parts": 2, "heads": 2, "feedforward": 12, "dropout": 0.0, "canonical": 0.2,
        "layer_scale": 0.5,
    },
    "lightcrl_paper": {"fusion": "addition", "heads": 2, "feedforward": 12, "dropout": 0.0},
    "mlp": {"layers": 2, "hidden": 12, "dropout": 0.0},
    # Where a loss or a scale is part of the method: those of all, so that every loss can be tried.
    "clip": {"head": "linear"},
    "convirt": {"loss_weight": 0.5, "temperature": None},
    "structure": {"structure_weight": 10.0, "structure_warmup": 0.1, "temperature": None},
    "csa": {"power": 1.0, "shrinkage": 0.1},
    "asif": {"neighbours": 6, "power": 2.0},
    "fusemix": {"blocks": 2, "expansion": 2, "dropout": 0.0, "alpha": 1.0},
    "sail": {"hidden": 12},
    "sharelock": {"locked": None, "layers": 2, "dropout": 0.0},
}  # fmt: skip
# Other values of every option, each of which has to change what comes out of a training step.
VARIED: dict[str, list[Any]] = {
    "dim": [4, 16],
    "input_dropout": [0.5],
    "standardise": [True],
    "by_slot": [False],
    "fusion": [name for name in OPERATIONS if name != "addition"],
    "heads": [1, 4],
    "feedforward": [5],
    "dropout": [0.5],
    "parts": [1],
    "canonical": [0.4],
    "layer_scale": [0.1],
    "layers": [3],
    "hidden": [5],
    "blocks": [1, 3],
    "expansion": [1],
    "alpha": [0.2],
    "head": ["gelu_norm"],
    "loss_weight": [0.75],
    "temperature": [0.2],
    "structure_weight": [1.0],
    "structure_warmup": [0.9],
    "power": [0.5, 4.0],
    "shrinkage": [0.9],
    "neighbours": [2],
    "locked": ["text"],
}
# Options without effect: what is solved refuses all input dropout but none, and correlations do not know units.
FIXED = {("asif", "input_dropout"), ("csa", "input_dropout"), ("csa", "standardise")}
# Logit scales that are not where the loss starts them.
OWN_START = {("sail", "sigmoid"): 20.0}

every_method = pytest.mark.parametrize("name", METHODS)
every_trained_method = pytest.mark.parametrize("name", [n for n in METHODS if not METHODS.load(n).closed_form])


def make(name: str, loss: str = "info_nce", seed: int = 0, **options: Any) -> Method:
    """A fresh method; what has a closed form is solved on random tokens."""
    method = make_method(name, SPECS, COMMON | OWN.get(name, {}) | options, loss, seed).eval()
    if method.solves:
        method.solve([step_of(method, 16)])
    return method


def step_of(method: Method, groups: int, done: float = 0.5) -> Step:
    """A step with one item of each modality for every group."""
    tokens = {modality: method.visible(modality, tokens_of(modality, groups, seed=9)) for modality in SPECS}
    return Step(tokens, {modality: torch.arange(groups) for modality in SPECS}, done)


def tokens_of(modality: str, count: int = 5, seed: int = 0) -> TokenBatch:
    """Ragged tokens, as many as there are slots, or ragged ones after the slots."""
    spec = SPECS[modality]
    lengths = [1 + (3 * n + seed) % 5 for n in range(count)]
    if spec.slots > 1:
        lengths = [spec.slots + length * spec.sequence for length in lengths]
    return ragged(lengths, spec.dim, seed)


@every_method
@pytest.mark.parametrize("modality", SPECS)
def test_it_gives_unit_vectors(name, modality):
    method = make(name)
    found = method(modality, tokens_of(modality))
    assert (found.shape, found.dtype) == ((5, method.dim), torch.float32)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
    assert (torch.pdist(found) > 1e-3).all()


@every_method
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), extra=st.integers(0, 3), data=st.data())
def test_an_item_is_itself_whatever_its_neighbours_its_place_and_its_padding(name, lengths, extra, data):
    method, batch = make(name), ragged(lengths, 7)
    alone = torch.cat([method("text", TokenBatch.full(item[None])) for item in batch.ragged()])
    order = data.draw(st.permutations(range(len(lengths))))
    together = padded(batch, extra, data.draw(st.sampled_from(GARBAGE))).rows(torch.tensor(order))
    torch.testing.assert_close(method("text", together), alone[order], atol=1e-5, rtol=0)
    with torch.inference_mode():
        torch.testing.assert_close(method("text", together), alone[order], atol=1e-5, rtol=0)


@every_method
def test_one_vector_an_item_is_enough(name):
    method = make(name)
    vectors = randn(6, 7)
    found = method("text", TokenBatch.from_vectors(vectors))
    assert (torch.pdist(found) > 1e-3).all()
    torch.testing.assert_close(found[:1], method("text", TokenBatch.from_vectors(vectors[:1])), atol=1e-5, rtol=0)


def backward(method: Method, loss: str, garbage: float = 0.0) -> dict[str, torch.Tensor]:
    """Gradients after one loss over all modalities, with several texts a group."""
    method.zero_grad()
    groups = {
        "both": torch.tensor([1, 0, 2]),
        "image": torch.arange(4),
        "layers": torch.tensor([3, 0, 9]),
        "text": torch.tensor([0, 0, 1, 2, 3, 3]),
    }
    tokens = {
        modality: method.visible(modality, padded(tokens_of(modality, len(found)), modality != "layers", garbage))
        for modality, found in groups.items()
    }
    embeddings = {modality: method(modality, found) for modality, found in tokens.items()}
    method.objective(LOSSES.load(loss), embeddings, Step(tokens, groups, 0.5)).backward()
    trained = {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}
    return {name: torch.zeros(0) if p.grad is None else p.grad.clone() for name, p in trained.items()}


@every_method
@pytest.mark.parametrize("loss", LOSSES)
def test_every_trained_parameter_receives_a_gradient(name, loss):
    for where, gradient in backward(make(name, loss), loss).items():
        assert gradient.isfinite().all(), where
        assert gradient.any(), where


@every_method
@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_stands_under_the_mask_changes_no_gradient(name, garbage):
    clean = backward(make(name), "info_nce")
    torch.testing.assert_close(backward(make(name), "info_nce", garbage), clean)


@every_method
def test_what_bears_a_modalitys_name_belongs_to_it_alone(name):
    method = make(name)
    before = {modality: method(modality, tokens_of(modality)) for modality in SPECS}
    with torch.no_grad():
        for where, parameter in method.named_parameters():
            if "text" in where.split("."):
                parameter.add_(torch.rand_like(parameter))
    assert torch.equal(method("image", tokens_of("image")), before["image"])
    assert not torch.allclose(method("text", tokens_of("text")), before["text"], atol=1e-3)


@every_method
def test_an_unknown_modality_is_refused_with_those_there_are(name):
    with pytest.raises(ModalityError, match=r"^no modality 'video' in this model; it has both, image, layers, text\.$"):
        make(name)("video", tokens_of("text"))


@every_method
@pytest.mark.parametrize(
    ("modality", "shape", "expected"),
    [
        ("text", (2, 3, 6), "[B, T, 7]"),
        ("layers", (2, 3, 5), "[B, 3, 4]"),
        ("layers", (2, 2, 4), "[B, 3, 4]"),
        ("both", (2, 1, 6), "[B, 2 + T, 6]"),
    ],
)
def test_tokens_of_another_shape_are_refused_with_both_named(name, modality, shape, expected):
    with pytest.raises(ShapeError) as error:
        make(name)(modality, TokenBatch.full(torch.zeros(shape)))
    assert str(error.value).startswith(f"{modality} tokens of shape {list(shape)}; this model expects {expected}.")


@every_method
@pytest.mark.parametrize("modality", ["", "a.b", "keys", "type"])
def test_a_name_that_torch_cannot_hold_is_refused(name, modality):
    kind = METHODS.load(name)
    with pytest.raises(ModalityError, match="cannot name a modality"):
        kind({modality: TokenSpec(3)}, kind.Options())


@every_trained_method
def test_eval_mode_is_deterministic_and_dropout_acts_in_training_alone(name):
    dropped = {option: 0.5 for option in METHODS.load(name).Options.model_fields if option.endswith("dropout")}
    method, tokens = make(name, **dropped), tokens_of("text")
    assert torch.equal(method("text", tokens), method("text", tokens))
    torch.testing.assert_close(method("text", tokens), make(name)("text", tokens))
    method.train()
    assert not torch.allclose(method("text", tokens), method("text", tokens), atol=1e-3)
    without = make(name).train()
    assert torch.equal(without("text", tokens), without("text", tokens))


@every_method
def test_what_follows_the_slots_is_read_by_those_who_say_so(name):
    method, tokens = make(name), tokens_of("both")
    slots, sequence = tokens.places(0, 2), tokens.places(2)
    other = TokenBatch(torch.cat([slots.values, sequence.values.flip(2)], 1), tokens.mask)
    found, changed = method("both", tokens), method("both", other)
    assert torch.allclose(found, changed, atol=1e-4) != method.sequences
    if not method.sequences:
        assert torch.equal(method("both", slots), found)


@every_method
def test_stored_half_precision_is_read_as_it_is(name):
    method, half = make(name), tokens_of("text").to("cpu", torch.float16)
    assert torch.equal(method("text", half), method("text", half.to("cpu", torch.float32)))


@every_method
def test_weights_are_drawn_by_the_seed_alone(name):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    one = make(name, seed=1).state_dict()
    assert torch.equal(torch.rand(3), wanted), "the caller's own random state is left alone"
    torch.testing.assert_close(make(name, seed=1).state_dict(), one, rtol=0, atol=0)
    other = make(name, seed=2).state_dict()
    differ = {where.split(".")[1] for where in one if not torch.equal(one[where], other[where])}
    assert ("text" in differ) == (not METHODS.load(name).closed_form), "what is solved has nothing to draw"


@every_method
def test_the_parts_sum_to_what_is_trained(name):
    method = make(name, loss="sigmoid")
    parts = method.parts()
    assert sum(parts.values()) == sum(p.numel() for p in method.parameters() if p.requires_grad)
    assert parts.get("stem layers", 0) == sum(p.numel() for p in method.stem("layers").parameters())
    assert (parts["logit_scale"], parts["logit_bias"]) == (1, 1)
    method.stem("layers").requires_grad_(False)
    assert "stem layers" not in method.parts()
    assert sum(method.parts().values()) == sum(parts.values()) - parts.get("stem layers", 0)


@pytest.mark.parametrize("name", ["linear", "dfe", "csa", "structure"])
def test_a_stem_has_a_matrix_and_a_bias_for_each_slot(name):
    parts = make(name).parts()
    assert parts["stem image"] == 5 * DIM + DIM
    assert parts["stem layers"] == 3 * (4 * DIM + DIM)


@every_method
def test_the_scale_never_exceeds_100_and_comes_down_again(name):
    method = make(name)
    assert method.scale.item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        method.logit_scale.fill_(50.0)
    assert method.scale.item() == pytest.approx(100.0)
    method.bound_logit_scale()
    assert method.logit_scale.item() == pytest.approx(math.log(100.0))
    method.scale.backward()
    assert method.logit_scale.grad is not None
    assert method.logit_scale.grad > 0


@every_method
@pytest.mark.parametrize(("loss", "scale", "bias"), [("info_nce", 1 / 0.07, None), ("sigmoid", 10.0, -10.0)])
def test_scale_and_bias_start_where_the_loss_wants_them(name, loss, scale, bias):
    method = make(name, loss)
    assert method.scale.item() == pytest.approx(OWN_START.get((name, loss), scale))
    assert (None if method.logit_bias is None else method.logit_bias.item()) == bias
    method.start_logits(3.0, None)
    assert method.scale.item() == pytest.approx(3.0)
    assert method.logit_bias is None


def after_a_start(name: str, folder: Any, **options: Any) -> list[torch.Tensor]:
    """What a method says in a training step, and the loss, once its stems have seen the data."""
    sequences = {modality: [3 * item + 2 for item in tokens_of(modality, 4).ragged()] for modality in SPECS}
    features = make_features(folder, sequences, {modality: [f"train:g{n}" for n in range(4)] for modality in SPECS})
    method = make(name, **options).train()
    _initialise(method, features, features.split("train"), seed=0)
    torch.manual_seed(0)
    if method.closed_form:
        method.eval().solve([step_of(method, 16)])
    step = step_of(method, 5)
    step = method.augment(step) if method.training else step
    embeddings = {modality: method(modality, tokens) for modality, tokens in step.tokens.items()}
    loss = method.objective(info_nce, embeddings, step)
    if method.solves:
        method.eval().solve([step_of(method, 16)])
    measured = [method.eval()(modality, tokens) for modality, tokens in step.tokens.items()]
    return [found.detach() for found in (*embeddings.values(), loss, *measured)]


@pytest.mark.parametrize(
    ("name", "option"),
    [
        (name, option)
        for name in METHODS
        for option in METHODS.load(name).Options.model_fields
        if (name, option) not in FIXED
    ],
)
def test_every_option_has_an_effect(name, option, tmp_path):
    kept = after_a_start(name, tmp_path / "base")
    assert option in VARIED, f"say in VARIED what else {option} may be"
    for number, value in enumerate(VARIED[option]):
        changed = after_a_start(name, tmp_path / str(number), **{option: value})
        assert any(
            a.shape != b.shape or not torch.allclose(a, b, atol=1e-4) for a, b in zip(kept, changed, strict=True)
        )


@every_method
@pytest.mark.parametrize("wrong", [{"dim": 0}, {"input_dropout": 1.0}, {"input_dropout": -0.1}, {"dims": 8}], ids=str)
def test_wrong_options_are_refused_by_name(name, wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        METHODS.load(name).Options(**wrong)


@every_method
def test_options_have_what_every_method_has_and_are_not_changed_once_made(name):
    options = METHODS.load(name).Options()
    assert isinstance(options, MethodOptions)
    with pytest.raises(ValidationError, match="frozen"):
        options.dim = 3
    assert METHODS.load(name).suits.get("learning_rate", 1) > 0


@every_method
def test_what_suits_it_and_what_a_comparison_tries_can_be_said_in_a_recipe(name):
    kind = METHODS.load(name)
    spec = TrainingSpec(**kind.suits)
    assert spec.suited(kind).learning_rate > 0
    assert spec.suited(kind).loss in LOSSES
    assert len(kind.grid) <= 4
    assert kind.grid[0] == {}, "the first entry is the defaults"
    tried = [kind.Options(**options) for options in kind.grid]
    assert all(one != other for one, other in combinations(tried, 2))


@every_method
def test_its_defaults_stay_within_the_budget_on_real_features(name):
    """Three layers of a small vision transformer and of a sentence encoder, as `auto` has them."""
    kind = METHODS.load(name)
    method = kind({"image": TokenSpec(192, 6), "text": TokenSpec(384, 5)}, kind.Options())
    assert sum(method.parts().values()) <= 2_500_000


# --- a world small enough to train in: whether a method learns who belongs together


TRAIN, DEV = 160, 48


def world(folder: Path, shuffled: bool = False) -> Features:
    """Six numbers seen three ways: one vector, slots, ragged noisy tokens. Shuffled: who belongs together is drawn."""
    things = randn(TRAIN + DEV, 6, seed=1)
    ways = {modality: randn(6, SPECS[modality].slots * SPECS[modality].dim, seed=n) for n, modality in enumerate(SPECS)}
    order = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(2))
    names = {modality: torch.arange(TRAIN) for modality in SPECS} | ({"text": order} if shuffled else {})
    sequences, owners = {}, {}
    for modality, spec in SPECS.items():
        seen = torch.tanh(things @ ways[modality] / 2).view(len(things), spec.slots, spec.dim)
        noise = [0.05 * randn(*item.shape, seed=n) for n, item in enumerate(seen)]
        items = [item + more for item, more in zip(seen, noise, strict=True)]
        if modality == "text":
            items = [torch.cat([item, item + 0.1]) if n % 3 else item for n, item in enumerate(items)]
        sequences[modality] = items
        owners[modality] = [f"train:g{n}" for n in names[modality].tolist()] + [f"dev:d{n}" for n in range(DEV)]
    stores = {}
    for modality, spec in SPECS.items():
        part = make_features(folder / modality, {modality: sequences[modality]}, owners, slots=spec.slots)
        stores |= part.stores
    return Features(stores)


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Features:
    return world(tmp_path_factory.mktemp("together"))


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory) -> Features:
    return world(tmp_path_factory.mktemp("shuffled"), shuffled=True)


TINY = {
    "dim": 16, "input_dropout": 0.0, "feedforward": 16, "dropout": 0.0, "key_dropout": 0.0, "heads": 2, "hidden": 32,
    "neighbours": 20,
}  # fmt: skip
NEEDS = {"asif": {"dim": TRAIN}}


def learn(name: str, features: Features, folder: Path, report: Any = lambda event: None, **given: Any) -> Trained:
    kind = METHODS.load(name)
    options = {option: value for option, value in TINY.items() if option in kind.Options.model_fields}
    settings = {"epochs": 12, "batch_size": 40, "learning_rate": 0.02, "evaluate_every": 12, "precision": "float32"}
    spec = TrainingSpec(**(settings | {"tensorboard": False} | given)).suited(kind)
    checkpoint = Checkpoint(
        make_method(name, features.specs, options | NEEDS.get(name, {}), spec.loss),
        name=name,
        loss=spec.loss,
        encoders={modality: EncoderSpec(kind="text", model="builtin") for modality in SPECS},
        fingerprints=dict.fromkeys(SPECS, "f"),
    )
    return train(checkpoint, features, spec, folder, report=report)


@every_method
def test_right_pairs_are_learnt_and_shuffled_ones_give_chance(name, together, shuffled, tmp_path):
    """All pairs of modalities; where a third says who belongs together, that is no news of the text."""
    right = learn(name, together, tmp_path / "a").result
    wrong = learn(name, shuffled, tmp_path / "b").result
    for direction in ("image_to_text", "text_to_image", "layers_to_text", "text_to_layers"):
        key = f"{direction}/recall@10"
        assert right.metrics[key] > 2.5 * right.chance[key], direction
    key = "text_to_image/recall@10"
    deviation = math.sqrt(wrong.chance[key] * (1 - wrong.chance[key]) / DEV)
    assert abs(wrong.metrics[key] - wrong.chance[key]) < 3 * deviation
    assert right.metrics["mean_recall@1"] > 5 * right.chance["mean_recall@1"]


@every_method
def test_interrupted_it_goes_on_as_if_nothing_had_happened(name, together, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    few = {"epochs": 2, "evaluate_every": 1}

    def stop(event: Any) -> None:
        if event.get("step") == 5:
            raise KeyboardInterrupt

    learn(name, together, tmp_path / "whole", **few)
    if not METHODS.load(name).closed_form:
        with pytest.raises(KeyboardInterrupt):
            learn(name, together, tmp_path / "stopped", report=stop, **few)
    learn(name, together, tmp_path / "stopped", **few)
    one, other = (load_folder(tmp_path / run / "last").method.state_dict() for run in ("whole", "stopped"))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@every_method
def test_a_checkpoint_says_the_same_once_it_is_read_back(name, tmp_path):
    method = make(name)
    checkpoint = Checkpoint(
        method,
        name=name,
        loss="info_nce",
        encoders={modality: EncoderSpec(kind="text", model="builtin") for modality in SPECS},
        fingerprints=dict.fromkeys(SPECS, "f"),
    )
    checkpoint.save(tmp_path / "kept")
    again = load_folder(tmp_path / "kept").method
    assert again.options == method.options
    for modality in SPECS:
        assert torch.equal(again(modality, tokens_of(modality)), method(modality, tokens_of(modality)))


# --- linear, and the stem that all methods have


def test_with_slots_linear_is_one_map_of_the_slots_side_by_side():
    method, tokens = make("linear"), tokens_of("layers")
    stem = method.stem("layers")
    side_by_side = torch.cat(list(stem.weight)) / 3
    wanted = tokens.values.flatten(1) @ side_by_side + stem.bias.mean(0)
    torch.testing.assert_close(method.embed("layers", tokens), wanted)
    torch.testing.assert_close(method("layers", tokens), wanted / wanted.norm(dim=1, keepdim=True))


def test_linear_is_the_mean_token_times_a_matrix():
    method, tokens = make("linear"), tokens_of("text")
    stem = method.stem("text")
    torch.testing.assert_close(method.embed("text", tokens), tokens.mean() @ stem.weight[0] + stem.bias[0])


def make_stem(spec: TokenSpec, **options: Any) -> Stem:
    torch.manual_seed(0)
    return Stem(spec, MethodOptions(**COMMON | options)).eval()


def test_one_projection_is_shared_by_the_slots_unless_each_has_its_own():
    shared, own = (make_stem(TokenSpec(4, slots=3), by_slot=by_slot) for by_slot in (False, True))
    assert (shared.weight.shape, own.weight.shape) == ((1, 4, DIM), (3, 4, DIM))
    tokens = tokens_of("layers")
    torch.testing.assert_close(shared(tokens), tokens.values @ shared.weight[0])
    for slot in range(3):
        torch.testing.assert_close(own(tokens)[:, slot], tokens.values[:, slot] @ own.weight[slot])


def test_fit_centres_every_feature_and_brings_all_to_one_scale():
    stem, tokens = make_stem(TokenSpec(7)), padded(tokens_of("text", 6), 2, float("nan"))
    real = np.concatenate([item.double().numpy() for item in tokens.ragged()])
    stem.fit(tokens)
    np.testing.assert_allclose(stem.mean[0], real.mean(0), atol=1e-6)
    brought = (real - real.mean(0)) / np.sqrt(((real - real.mean(0)) ** 2).mean())
    assert (brought**2).mean() == pytest.approx(1)
    np.testing.assert_allclose(stem(tokens)[tokens.mask].detach(), brought @ stem.weight[0].detach().numpy(), atol=1e-5)


def test_fit_keeps_slots_apart_where_each_has_its_projection():
    tokens = tokens_of("layers", 9)
    tokens = TokenBatch(tokens.values * torch.tensor([1.0, 10.0, 100.0])[:, None], tokens.mask)
    values = tokens.values.double().numpy()
    stem = make_stem(TokenSpec(4, slots=3))
    stem.fit(tokens)
    np.testing.assert_allclose(stem.mean, values.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stem.deviation[:, 0], np.sqrt(values.var(0).mean(-1)), rtol=1e-5)
    shared = make_stem(TokenSpec(4, slots=3), by_slot=False)
    shared.fit(tokens)
    np.testing.assert_allclose(shared.mean[0], values.mean((0, 1)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shared.deviation.item(), np.sqrt(values.reshape(-1, 4).var(0).mean()), rtol=1e-5)


def test_a_slot_that_does_not_vary_is_only_centred():
    stem = make_stem(TokenSpec(2))
    stem.fit(TokenBatch.from_vectors(torch.full((20, 2), 1000.0)))
    assert (stem.mean.tolist(), stem.deviation.tolist()) == ([[1000.0, 1000.0]], [[1.0]])


def test_standardised_features_are_blind_to_their_units():
    """The same data in other units, fitted, gives the same projection."""
    tokens = tokens_of("text", 8)
    scaled = TokenBatch(tokens.values * 250 - 40, tokens.mask)
    found = []
    for given_tokens in (tokens, scaled):
        stem = make_stem(TokenSpec(7))
        stem.fit(given_tokens)
        found.append(stem(given_tokens)[given_tokens.mask])
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=0)
