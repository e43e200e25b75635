"""The Deep Fusion Encoder, step by step: v = mean fuse(stem(x), c), e = normalize(v + g F(LayerNorm(v))), by part."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from lightcrl.errors import UnknownNameError
from lightcrl.losses import info_nce
from lightcrl.methods import Step
from lightcrl.methods.attention_pool import SequencePool
from lightcrl.methods.csa import CSA, CSAOptions
from lightcrl.methods.dfe import DeepFusionEncoder, DFEOptions
from lightcrl.methods.fusion import OPERATIONS
from lightcrl.tokens import TokenBatch, TokenSpec
from samples import ragged

PLAIN: dict[str, Any] = {
    "dim": 8, "parts": 1, "heads": 2, "feedforward": 12, "dropout": 0.0, "input_dropout": 0.0, "layer_scale": 0.3,
    "canonical": 0.0, "fusion": "addition", "by_slot": True, "standardise": True,
}  # fmt: skip
SPECS = {
    "image": TokenSpec(5),
    "text": TokenSpec(7),
    "layers": TokenSpec(4, slots=3),
    "both": TokenSpec(6, 2, sequence=True),
}


def make(specs: dict[str, TokenSpec] = SPECS, seed: int = 0, **options: Any) -> DeepFusionEncoder:
    """In float64 and eval mode, with weights well away from where they start."""
    torch.manual_seed(seed)
    method = DeepFusionEncoder(specs, DFEOptions(**PLAIN | options)).double().eval()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in method.named_buffers():
            if name != "share":
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return method


class ByHand:
    """The same network from its weights alone, one item without padding at a time."""

    def __init__(self, method: DeepFusionEncoder) -> None:
        self.method = method
        self.weights = {name: value.numpy() for name, value in method.state_dict().items()}

    def dense(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights[f"{name}weight"].T + self.weights[f"{name}bias"]

    def layer_norm(self, name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def gelu(self, x: np.ndarray) -> np.ndarray:
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2

    def stem(self, modality: str, tokens: np.ndarray, of: str = "stems") -> np.ndarray:
        weight, bias, mean, deviation = (
            self.weights[f"{of}.{modality}.{part}"] for part in ("weight", "bias", "mean", "deviation")
        )
        slot = range(len(tokens)) if len(weight) > 1 else [0] * len(tokens)
        return np.stack(
            [
                np.concatenate(
                    [
                        (t - mean[s]) / scale @ part
                        for scale, part in zip(deviation[s], np.split(weight[s], deviation.shape[1], 1), strict=True)
                    ]
                )
                + bias[s]
                for t, s in zip(tokens, slot, strict=True)
            ]
        )

    def pool(self, modality: str, sequence: np.ndarray) -> np.ndarray:
        query, weight, bias, mean, deviation = (
            self.weights[f"pools.{modality}.{part}"] for part in ("query", "weight", "bias", "mean", "deviation")
        )
        x = (sequence - mean) / deviation
        heads = []
        for q, w in zip(query, weight, strict=True):
            shares = np.exp(x @ q)
            heads.append(shares / shares.sum() @ x @ w)
        return np.concatenate(heads) + bias

    def contexts(self, modality: str) -> np.ndarray:
        x = self.layer_norm("context.mlp.0", self.weights[f"context.vectors.{modality}"])
        return self.dense("context.mlp.3.", self.gelu(self.dense("context.mlp.1.", x)))

    def fuse(self, tokens: np.ndarray, context: np.ndarray) -> np.ndarray:
        """By the operation itself, which has its own tests."""
        operation = self.method.fusion
        mask = torch.ones(1, len(tokens), dtype=torch.bool)
        fused = operation(torch.from_numpy(tokens)[None], mask, torch.from_numpy(operation.neutral + context))
        return fused[0].detach().numpy()

    def block(self, x: np.ndarray) -> np.ndarray:
        hidden = self.gelu(self.dense("block.1.", self.layer_norm("block.0", x)))
        return self.weights["layer_scale"] * self.dense("block.4.", hidden)

    def embed(self, modality: str, tokens: np.ndarray) -> np.ndarray:
        spec, options = SPECS[modality], self.method.options
        if spec.sequence:
            pooled = self.pool(modality, tokens[spec.slots :])
            u = np.concatenate([self.stem(modality, tokens[: spec.slots]), pooled[None]])
        else:
            u = self.stem(modality, tokens)
        parts = []
        for part, context in zip(np.split(u, options.parts, axis=1), self.contexts(modality), strict=True):
            v = self.fuse(part, context).mean(0)
            z = v + self.block(v)
            parts.append(z / np.linalg.norm(z))
        e = np.concatenate(parts) / len(parts) ** 0.5
        if options.canonical:
            slots = tokens[: spec.slots] if spec.sequence else tokens
            solved = self.stem(modality, slots, "canonical").mean(0)
            share = options.canonical
            e = np.concatenate([(1 - share) ** 0.5 * e, share**0.5 * solved / np.linalg.norm(solved)])
        return e


@pytest.mark.parametrize(("parts", "canonical"), [(1, 0.0), (2, 0.3)])
@pytest.mark.parametrize("fusion", OPERATIONS)
def test_it_is_its_formula(fusion, parts, canonical):
    method = make(fusion=fusion, parts=parts, canonical=canonical)
    by_hand = ByHand(method)
    for modality, tokens in {
        "image": ragged([4, 4, 4], 5),
        "text": ragged([1, 6, 3], 7),
        "layers": ragged([3, 3], 4),
        "both": ragged([3, 7], 6),
    }.items():
        wanted = np.stack([by_hand.embed(modality, item.double().numpy()) for item in tokens.ragged()])
        np.testing.assert_allclose(method(modality, tokens).detach().numpy(), wanted, atol=1e-6)


def test_each_part_has_its_own_loss():
    """The mean over parts: a part that is right is not excused for one that is wrong."""
    method = make(parts=2)
    groups = torch.arange(4)
    step = Step({}, {"image": groups, "text": groups})
    left, right = (torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(n)).double() for n in (1, 2))
    whole = {name: normalize(torch.cat(list(normalize(x, dim=-1)), -1), dim=-1) for name, x in
             (("image", left), ("text", right))}  # fmt: skip
    single = [
        info_nce(normalize(a, dim=-1), normalize(b, dim=-1), groups, groups, method.scale)
        for a, b in zip(left, right, strict=True)
    ]
    torch.testing.assert_close(method.objective(info_nce, whole, step), sum(single) / 2)


def test_the_canonical_part_is_what_csa_finds_in_the_slots_and_is_not_trained():
    specs = {"left": TokenSpec(3, slots=2, sequence=True), "right": TokenSpec(4)}
    shared = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    left = torch.cat([shared @ torch.randn(2, 6), torch.randn(60, 6)], 1).view(60, 4, 3)
    right = (shared @ torch.randn(2, 4) + 0.1 * torch.randn(60, 4)).unsqueeze(1)
    tokens = {"left": TokenBatch.full(left), "right": TokenBatch.full(right)}
    step = Step(tokens, dict.fromkeys(specs, torch.arange(60)))
    method = DeepFusionEncoder(specs, DFEOptions(**PLAIN | {"canonical": 0.4, "parts": 2})).eval()
    # Five features on average, sixty groups.
    options = CSAOptions(dim=4, shrinkage=5 / 65)
    csa = CSA({"left": TokenSpec(3, slots=2), "right": TokenSpec(4)}, options).eval()
    method.solve([step])
    csa.solve([replace(step, tokens={"left": tokens["left"].places(0, 2), "right": tokens["right"]})])
    for name in specs:
        found, wanted = method(name, tokens[name]), csa(name, csa_tokens(tokens[name], name))
        assert found.shape == (60, 12)
        assert method.dim == 12
        torch.testing.assert_close(found[:, 8:] / 0.4**0.5, wanted)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(60))
    assert not any(parameter.requires_grad for parameter in method.canonical.parameters())
    assert method.solves
    # Left to the data the share is F / (1.5 F + G): five features, sixty groups.
    auto = DeepFusionEncoder(specs, DFEOptions(**PLAIN | {"canonical": "auto", "parts": 2})).eval()
    auto.solve([step])
    for name in specs:
        torch.testing.assert_close(
            auto(name, tokens[name])[:, 8:] / (5 / 67.5) ** 0.5, csa(name, csa_tokens(tokens[name], name))
        )
    assert not make(canonical=0.0).solves


def test_where_items_repeat_the_canonical_part_says_less():
    """Three different captions have two directions, of four that widths allow."""
    specs = {"left": TokenSpec(6), "right": TokenSpec(4)}
    kind = torch.arange(60) % 3
    captions = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    left = torch.randn(60, 6, generator=torch.Generator().manual_seed(1)) + kind.unsqueeze(1)
    tokens = {"left": TokenBatch.from_vectors(left), "right": TokenBatch.from_vectors(captions[kind])}
    method = DeepFusionEncoder(specs, DFEOptions(**PLAIN | {"canonical": "auto", "parts": 2}))
    method.solve([Step(tokens, dict.fromkeys(specs, torch.arange(60)))])
    assert method.share.item() == pytest.approx(5 / 67.5 * 2 / 4)


@pytest.mark.parametrize("groups", [3, 9, 40])
def test_few_groups_have_as_much_of_the_canonical_part_as_they_allow(groups):
    """Fewer groups than widths have fewer directions: that is no sign of items that repeat."""
    specs = {"left": TokenSpec(12), "right": TokenSpec(16)}
    draw = torch.Generator().manual_seed(0)
    tokens = {
        name: TokenBatch.from_vectors(torch.randn(groups, spec.dim, generator=draw)) for name, spec in specs.items()
    }
    method = DeepFusionEncoder(specs, DFEOptions(**PLAIN | {"canonical": "auto", "parts": 2}))
    method.solve([Step(tokens, dict.fromkeys(specs, torch.arange(groups)))])
    assert method.share.item() == pytest.approx(14 / (1.5 * 14 + groups))


def csa_tokens(tokens: TokenBatch, name: str) -> TokenBatch:
    return tokens.places(0, 2) if name == "left" else tokens


def test_features_too_wide_for_a_closed_form_do_without(monkeypatch):
    # 5 + 7 + 3 * 4 + 2 * 6 of them.
    monkeypatch.setattr("lightcrl.methods.dfe.MOST_FEATURES", 36)
    assert make(canonical="auto").solves
    monkeypatch.setattr("lightcrl.methods.dfe.MOST_FEATURES", 35)
    assert make(canonical=0.3).solves  # asked for
    narrow = make(canonical="auto")
    assert not narrow.solves
    assert narrow("text", ragged([2], 7)).shape == (1, narrow.dim) == (1, 8)


def test_a_sequence_is_standardised_by_its_own_figures():
    method = make().float()
    tokens = ragged([5, 4, 9], 6)
    method.fit("both", tokens)
    sequence = torch.cat([item[2:] for item in tokens.ragged()]).double()
    pool = method.pools["both"]
    torch.testing.assert_close(pool.mean.double(), sequence.mean(0), atol=1e-6, rtol=0)
    spread = sequence.var(0, correction=0).mean().sqrt()
    torch.testing.assert_close(pool.deviation.double(), spread, atol=1e-6, rtol=0)
    slots = torch.stack([item[:2] for item in tokens.ragged()])
    torch.testing.assert_close(method.stem("both").mean, slots.mean(0))


def test_the_first_part_sees_slots_at_equal_scales_and_the_last_as_they_are():
    method = make(parts=3, heads=1, dim=12).float()
    values = ragged([3] * 50, 4).values * torch.tensor([0.1, 1.0, 7.0])[:, None] + 2
    method.fit("layers", TokenBatch.full(values))
    stem = method.stem("layers")
    own = values.double().var(0, correction=0).mean(-1).sqrt()
    common = own.square().mean().sqrt().expand(3)
    wanted = torch.stack([own, (own * common).sqrt(), common], 1)
    torch.testing.assert_close(stem.deviation.double(), wanted, rtol=1e-5, atol=0)
    for part, scale in enumerate(wanted.T.float()):
        columns = slice(4 * part, 4 * part + 4)
        seen = (values - stem.mean) / scale[:, None]
        found = stem(TokenBatch.full(values))[..., columns] - stem.bias[:, columns]
        torch.testing.assert_close(found, torch.einsum("btd,tdk->btk", seen, stem.weight[..., columns]))


def test_a_projection_is_set_at_the_scales_of_its_parts():
    stem = make(parts=2, heads=2).stem("layers")
    wanted = torch.rand(stem.weight.shape, dtype=torch.float64)
    stem.set_projection(wanted)
    torch.testing.assert_close(stem.projection, wanted)
    assert not torch.equal(stem.weight, wanted)


def test_heads_that_look_alike_find_the_mean_of_the_sequence():
    pool, tokens = SequencePool(6, 8, 2, 0.0), ragged([3, 1, 4], 6)
    with torch.no_grad():
        pool.query.zero_()
    wanted = torch.cat([tokens.mean() @ weight for weight in pool.weight], -1)
    torch.testing.assert_close(pool(tokens), wanted + pool.bias)


def test_an_item_without_a_sequence_is_finite():
    pool = SequencePool(6, 8, 2, 0.0)
    empty = TokenBatch(torch.full((1, 3, 6), torch.nan), torch.zeros(1, 3, dtype=torch.bool))
    torch.testing.assert_close(pool(empty), pool.bias[None])


def test_layer_scale_starts_where_it_is_set_and_is_learned_per_feature():
    method = DeepFusionEncoder(SPECS, DFEOptions(**PLAIN | {"layer_scale": 0.25}))
    assert method.layer_scale.tolist() == [0.25] * 8


@pytest.mark.parametrize("fusion", OPERATIONS)
def test_the_same_tokens_differ_between_modalities_through_stem_and_context_alone(fusion):
    specs = {name: TokenSpec(5) for name in ("image", "text")}
    method = make(specs, fusion=fusion)
    tokens = ragged([3, 2], 5)

    def distance() -> float:
        return (method("image", tokens) - method("text", tokens)).norm().item()

    assert distance() > 1e-2
    method.stem("text").load_state_dict(method.stem("image").state_dict())
    assert distance() > 1e-3, "the context alone has to tell modalities apart"
    with torch.no_grad():
        method.context.vectors["text"].copy_(method.context.vectors["image"])
    assert distance() == 0.0


def test_contexts_differ_from_the_start():
    torch.manual_seed(0)
    method = DeepFusionEncoder(SPECS, DFEOptions(**PLAIN))
    encoded = [method.context(modality) for modality in SPECS]
    assert all((one - other).norm() > 0 for one in encoded for other in encoded if one is not other)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_modalities_shares_one_network(count):
    specs = {f"m{number}": TokenSpec(5) for number in range(count)}
    method = make(specs, fusion="additive_attention")
    sizes = method.parts()
    one = make({"m0": TokenSpec(5)}, fusion="additive_attention").parts()
    assert sizes["context"] - one["context"] == 8 * (count - 1)
    shared = ("fusion", "block", "layer_scale")
    assert [sizes[part] for part in shared] == [one[part] for part in shared]
    vectors = [method(modality, ragged([2], 5)) for modality in specs]
    assert all(vector.norm().item() == pytest.approx(1) for vector in vectors)


def test_every_real_token_counts_alike_and_their_order_does_not():
    method = make()
    tokens = ragged([5], 7)
    turned = TokenBatch(tokens.values.flip(1), tokens.mask)
    torch.testing.assert_close(method("text", turned), method("text", tokens))
    twice = TokenBatch(tokens.values.repeat(1, 2, 1), tokens.mask.repeat(1, 2))
    torch.testing.assert_close(method("text", twice), method("text", tokens))


def test_each_part_drops_features_of_its_own():
    method = make(parts=2, input_dropout=0.5).train()
    tokens = TokenBatch(torch.ones(400, 3, 6), torch.ones(400, 3, dtype=torch.bool))
    left, right = method.stem_tokens("both", tokens)[0].chunk(2, -1)
    for slot in range(3):
        joint = np.corrcoef(left[:, slot].detach().T, right[:, slot].detach().T)[:4, 4:]
        assert np.abs(joint).max() < 0.2
        own = np.corrcoef(left[:, slot].detach().T)
        assert np.abs(own - np.eye(4)).max() > 0.3, "heads of one part share their mask" if slot == 2 else ""


def test_the_dropped_share_of_a_sequence_is_that_of_its_slots():
    method = make(input_dropout="auto")
    method.regularise(groups=300, steps=400)
    for name, spec in SPECS.items():
        penalty = 2.5 * (spec.slots * spec.dim / 300) ** 0.5
        assert method.stem(name).dropout.p == pytest.approx(penalty / (1 + penalty))
    assert method.pools["both"].dropout.p == method.stem("both").dropout.p
    given = make(input_dropout=0.3)
    given.regularise(groups=300, steps=400)
    assert {stem.dropout.p for stem in [*given.stems.values(), *given.pools.values()]} == {0.3}


def test_an_unknown_operation_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown fusion operation 'adition'\. Did you mean 'addition'\?"):
        DFEOptions(fusion="adition")


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValidationError, match="dim 8 does not divide into 1 parts of 3 heads"):
        DFEOptions(dim=8, heads=3, parts=1)


@pytest.mark.parametrize(
    "wrong",
    [{"heads": 0}, {"feedforward": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"layer_scale": 0.0}, {"parts": 0}],
    ids=str,
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DFEOptions(**wrong)
