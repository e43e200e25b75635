"""The Deep Fusion Encoder, step by step: e = normalize(mean(v + g Transformer(LayerNorm(v)))), v = fuse(stem(x), c)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lightcrl.errors import UnknownNameError
from lightcrl.fusion.encoder import DeepFusionEncoder, DFEOptions
from lightcrl.fusion.operations import OPERATIONS
from lightcrl.methods import TokenSpec
from lightcrl.tokens import TokenBatch
from samples import ragged

PLAIN: dict[str, Any] = {
    "dim": 8, "heads": 2, "feedforward": 12, "dropout": 0.0, "key_dropout": 0.0, "input_dropout": 0.0,
    "layer_scale": 0.3, "inner_residual": True,
    "fusion": "addition", "by_slot": True, "standardise": True,
}  # fmt: skip
SPECS = {"image": TokenSpec(5), "text": TokenSpec(7), "layers": TokenSpec(4, slots=3)}


def make(specs: dict[str, TokenSpec] = SPECS, seed: int = 0, **options: Any) -> DeepFusionEncoder:
    """In float64 and eval mode, with weights well away from where they start."""
    torch.manual_seed(seed)
    method = DeepFusionEncoder(specs, DFEOptions(**PLAIN | options)).double().eval()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for buffer in method.buffers():
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

    def stem(self, modality: str, tokens: np.ndarray) -> np.ndarray:
        weight, bias, mean, deviation = (
            self.weights[f"stems.{modality}.{part}"] for part in ("weight", "bias", "mean", "deviation")
        )
        slot = range(len(tokens)) if len(weight) > 1 else [0] * len(tokens)
        return np.stack([(t - mean[s]) / deviation[s] @ weight[s] + bias[s] for t, s in zip(tokens, slot, strict=True)])

    def context(self, modality: str) -> np.ndarray:
        x = self.layer_norm("context.mlp.0", self.weights[f"context.vectors.{modality}"])
        return self.dense("context.mlp.3.", self.gelu(self.dense("context.mlp.1.", x)))

    def fuse(self, tokens: np.ndarray, context: np.ndarray) -> np.ndarray:
        """By the operation itself, which has its own tests."""
        operation = self.method.fusion
        mask = torch.ones(1, len(tokens), dtype=torch.bool)
        fused = operation(torch.from_numpy(tokens)[None], mask, torch.from_numpy(operation.neutral + context))
        return fused[0].detach().numpy()

    def attention(self, x: np.ndarray) -> np.ndarray:
        heads, width = self.method.options.heads, self.method.options.dim // self.method.options.heads
        queries, keys, values = np.split(self.dense("transformer.project_in.", x), 3, axis=1)
        parts = []
        for head in range(heads):
            q, k, v = (part[:, head * width : (head + 1) * width] for part in (queries, keys, values))
            shares = np.exp(q @ k.T / math.sqrt(width))
            parts.append(shares / shares.sum(1, keepdims=True) @ v)
        return self.dense("transformer.project_out.", np.concatenate(parts, 1))

    def transformer(self, x: np.ndarray) -> np.ndarray:
        x = x + self.attention(self.layer_norm("transformer.attention_norm", x))
        normed = self.layer_norm("transformer.feedforward.0", x)
        fed = self.dense("transformer.feedforward.4.", self.gelu(self.dense("transformer.feedforward.1.", normed)))
        return x + fed if self.method.options.inner_residual else fed

    def embed(self, modality: str, tokens: np.ndarray) -> np.ndarray:
        v = self.fuse(self.stem(modality, tokens), self.context(modality))
        z = v + self.weights.get("layer_scale", 1.0) * self.transformer(self.layer_norm("norm", v))
        e = z.mean(0)
        return e / np.linalg.norm(e)


@pytest.mark.parametrize(("layer_scale", "inner_residual"), [("none", True), (0.3, False)], ids=["paper", "ours"])
@pytest.mark.parametrize("fusion", OPERATIONS)
def test_it_is_its_formula(fusion, layer_scale, inner_residual):
    method = make(fusion=fusion, layer_scale=layer_scale, inner_residual=inner_residual)
    by_hand = ByHand(method)
    for modality, tokens in {
        "image": ragged([4, 4, 4], 5),
        "text": ragged([1, 6, 3], 7),
        "layers": ragged([3, 3], 4),
    }.items():
        wanted = np.stack([by_hand.embed(modality, item.double().numpy()) for item in tokens.ragged()])
        np.testing.assert_allclose(method(modality, tokens).detach().numpy(), wanted, atol=1e-6)


def test_without_layer_scale_it_is_the_papers_and_has_no_weight_for_it():
    paper, ours = make(layer_scale="none"), make(layer_scale=1.0)
    assert paper.layer_scale is None
    assert "layer_scale" not in paper.state_dict()
    ours.load_state_dict(paper.state_dict() | {"layer_scale": torch.ones(8)})
    tokens = ragged([2, 5], 7)
    torch.testing.assert_close(paper("text", tokens), ours("text", tokens))


def test_layer_scale_starts_where_it_is_set_and_is_learned_per_feature():
    method = DeepFusionEncoder(SPECS, DFEOptions(**PLAIN | {"layer_scale": 0.25}))
    assert isinstance(method.layer_scale, torch.nn.Parameter)
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
    shared = ("fusion", "norm", "transformer", "layer_scale")
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


def test_hidden_keys_are_real_tokens_seen_anew_at_every_step_and_never_all_of_them():
    method = make(key_dropout=0.6).train()
    tokens = ragged([1, 2, 6], 7)
    drawn = torch.stack([method("text", tokens) for _ in range(20)])
    spread = drawn.std(0).norm(dim=1)
    assert spread[0] == 0, "a single token is always seen"
    assert (spread[1:] > 1e-3).all()
    assert drawn.isfinite().all()
    alone = TokenBatch(tokens.values[1:2, :2], tokens.mask[1:2, :2])
    # Either token alone, or both: padding is never among what is left.
    outcomes = {tuple(method("text", alone)[0].tolist()) for _ in range(60)}
    assert len(outcomes) == 3
    method.eval()
    torch.testing.assert_close(method("text", tokens), make(key_dropout=0.0)("text", tokens))


def test_an_unknown_operation_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown fusion operation 'adition'\. Did you mean 'addition'\?"):
        DFEOptions(fusion="adition")


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValidationError, match="dim 8 does not divide into 3 heads"):
        DFEOptions(dim=8, heads=3)


@pytest.mark.parametrize(
    "wrong", [{"heads": 0}, {"feedforward": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"layer_scale": 0.0}], ids=str
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DFEOptions(**wrong)
