"""The Deep Fusion Encoder: a small network shared by all modalities, with a context vector for each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightcrl.losses import Loss
from lightcrl.methods.attention_pool import SequencePool
from lightcrl.methods.base import Method, Step
from lightcrl.methods.dropout import Dropout
from lightcrl.methods.fusion import OPERATIONS, FusionName, shrink
from lightcrl.methods.solve import moments_towards, ridge, set_affine, set_linear, solve_stems
from lightcrl.methods.stems import MethodOptions, Stem
from lightcrl.tokens import TokenBatch, TokenSpec

# Limit on the features of all modalities together for the canonical part: some minutes and some gigabytes.
MOST_FEATURES = 12_288
# Steps of the inversion of the encoder; each halves the error.
INVERSIONS = 12
# Of a canonical part that is kept although nothing correlates.
LEAST_SHARE = 1e-9


class DFEOptions(MethodOptions):
    """Options of the Deep Fusion Encoder.

    Attributes:
        dim: width of all trained parts together.
        parts: number of unit vectors that form the embedding, each with its own context, through a shared encoder.
        fusion: the fusion operation.
        heads: attention heads of each part, in the pooling of sequences.
        feedforward: hidden width of the shared block.
        dropout: share of the block's hidden features set to zero in training.
        canonical: share of the similarity from an additional part, which is solved in closed form; 0 omits it. "auto"
            omits it beyond `MOST_FEATURES`, and follows the data: F / (1.5 F + G / V) for F features of the slots on
            average over modalities, G groups and V views, times the share that the items span of the directions that G
            groups can have. With few groups trained parts err more than solved parts, and of many views solved parts
            make more than trained ones; with few distinct captions few directions can be solved (docs/LOG.md).
        layer_scale: initial factor of the block's output, learnable per feature (arXiv 2103.17239).
    """

    dim: int = Field(default=512, gt=0)
    parts: int = Field(default=2, gt=0)
    fusion: FusionName = "addition"
    heads: int = Field(default=8, gt=0)
    feedforward: int = Field(default=512, gt=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    canonical: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    layer_scale: float = Field(default=0.1, gt=0)

    @model_validator(mode="after")
    def _divides(self) -> DFEOptions:
        if self.dim % (self.parts * self.heads):
            raise ValueError(f"dim {self.dim} does not divide into {self.parts} parts of {self.heads} heads")
        return self


class DeepFusionEncoder(Method):
    """The encoder of section 3 of the LightCRL paper (arXiv 2403.04650), adapted to generalise from few groups.

            u_t = stem_m(x_t)                     one token per slot, and one that attention pools from the sequence
            v = mean_t fuse(u, c_m)               c_m: learnable vector of m, passed through a small shared MLP
            e = normalize(v + g F(LayerNorm(v)))  F: one shared feed-forward block; g: layer scale, small at the start

    The stem and the pool (`SequencePool`) are the only weights of a single modality. In the paper's transformer layer
    all tokens attend to each other, which overfits fewer than some ten thousand groups; attention with fixed queries
    does not (docs/LOG.md). `lightcrl_paper` has the transformer layer. Near the start the encoder is a linear map.

    Each part of an embedding is an embedding in its own right, with its share of u, its own c_m and its own loss.
    Together the parts err less than a single part of their joint width, as an ensemble does. The first part sees all
    slots at equal scale, the last as large as they are, where ViT's last layers outweigh its first (`Inlet.deviation`):
    which of both is better depends on the data, and both together follow the better one. An additional part is not
    trained: the strongest canonical variates of the slots, weighted by their correlations (as in `csa`), solved in one
    pass before the first step. Its errors differ from those of the trained parts. Its cost grows with the cube of the
    features, so it is omitted beyond `MOST_FEATURES` unless its share is given. With a single token per item the
    attention operations have no choice of tokens.
    """

    Options: ClassVar[type[MethodOptions]] = DFEOptions
    sequences: bool = True
    options: DFEOptions
    share: Tensor

    def __init__(self, modalities: Mapping[str, TokenSpec], options: DFEOptions) -> None:
        super().__init__(modalities, options)
        width = options.dim // options.parts
        self.pools = nn.ModuleDict(
            {
                name: SequencePool(
                    spec.dim, options.dim, options.parts * options.heads, options.input_dropout, options.parts
                )
                for name, spec in sorted(self.modalities.items())
                if spec.sequence
            }
        )
        self.context = ContextEncoder(sorted(self.modalities), options.parts, width)
        self.fusion = OPERATIONS.load(options.fusion)(width)
        self.block = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, options.feedforward),
            nn.GELU(),
            Dropout(options.dropout),
            nn.Linear(options.feedforward, width),
        )
        self.layer_scale = nn.Parameter(torch.full((width,), options.layer_scale))
        self.canonical = nn.ModuleDict()
        narrow = sum(self.stem(name).width for name in self.modalities) <= MOST_FEATURES
        if options.canonical and (narrow or options.canonical != "auto"):
            self.canonical.update({name: Stem(spec, options, width) for name, spec in sorted(self.modalities.items())})
        self.canonical.requires_grad_(False)
        self.register_buffer("share", torch.tensor(0.0 if options.canonical == "auto" else options.canonical))
        self.solves = bool(self.canonical)

    def settled_options(self) -> DFEOptions:
        """Options with a canonical part as it is here, however many features other modalities have."""
        share = max(float(self.share), LEAST_SHARE) if self.canonical else 0.0
        return self.options.model_copy(update={"canonical": share})

    @property
    def dim(self) -> int:
        """d, the width of an embedding, its canonical part included."""
        return self.options.dim + bool(self.canonical) * self.options.dim // self.options.parts

    @property
    def trained_dim(self) -> int:
        """d without the canonical part."""
        return self.options.dim

    def make_stem(self, modality: str) -> Stem:
        """Return a stem with separate dropout for each part."""
        return Stem(self.modalities[modality], self.options, parts=self.options.parts)

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return [B, d]; in training without the canonical part, which receives no gradient."""
        stem, mask = self.stem_tokens(modality, tokens)
        contexts = self.fusion.neutral + self.context(modality)
        parts = [
            self.encode(part, mask, context)
            for part, context in zip(stem.chunk(len(contexts), -1), contexts, strict=True)
        ]
        trained = torch.cat([normalize(part.float(), dim=-1) for part in parts], -1) / len(parts) ** 0.5
        if self.training or not self.canonical:
            return trained
        slots = self.modalities[modality].slots_of(tokens)
        solved = normalize(TokenBatch(self.canonical[modality](slots), slots.mask).mean().float(), dim=-1)
        return torch.cat([trained * (1 - self.share).sqrt(), solved * self.share.sqrt()], -1)

    def stem_tokens(self, modality: str, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        """Return u [B, T, d] and its mask: projected slots and the pooled sequence, or all tokens without slots."""
        spec = self.modalities[modality]
        if not spec.sequence:
            return self.stem(modality)(tokens), tokens.mask
        slots = spec.slots_of(tokens)
        pooled = self.pools[modality](spec.sequence_of(tokens))
        mask = torch.cat([slots.mask, slots.mask[:, :1]], 1)
        return torch.cat([self.stem(modality)(slots), pooled.unsqueeze(1)], 1), mask

    def encode(self, stem: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        """Return a part [B, d] of the embedding from its tokens [B, T, d] and its context [d]."""
        fused = TokenBatch(self.fusion(stem, mask, context), mask).mean()
        encoded: Tensor = fused + self.layer_scale * self.block(fused)
        return encoded

    def fit(self, modality: str, tokens: TokenBatch) -> None:
        """Set means and deviations of features from a sample of the training split."""
        spec = self.modalities[modality]
        if spec.sequence:
            pool = self.pools[modality]
            assert isinstance(pool, SequencePool)
            pool.fit(spec.sequence_of(tokens))
        tokens = spec.slots_of(tokens)
        self.stem(modality).fit(tokens)
        if self.canonical:
            canonical = self.canonical[modality]
            assert isinstance(canonical, Stem)
            canonical.fit(tokens)

    def regularise(self, groups: int, steps: int) -> None:
        """Adapt input dropout to the number of training groups and steps, also that of pooled sequences."""
        super().regularise(groups, steps)
        for name, pool in self.pools.items():
            assert isinstance(pool, SequencePool)
            pool.dropout.follow(self.stem(name).width, groups, steps)

    def solve(self, steps: Iterable[Step]) -> None:
        """Solve the canonical part and set its share of the similarity.

        Raises:
            TrainingError: no two modalities share a group.
        """
        stems = self._canonical_stems(sorted(self.modalities))
        solved = solve_stems(stems, self._slots_of(stems, steps), shrinkage="auto", power=1.0)
        if self.options.canonical == "auto":
            groups_per_feature = (1 - solved.shrinkage) / solved.shrinkage
            self.share.fill_(solved.filled / (1.5 + groups_per_feature / solved.views))

    def solve_towards(self, fresh: Collection[str], steps: Iterable[Step]) -> None:
        """Solve the canonical stems of `fresh`, and start the trained ones where the embeddings in their groups are.

        Both are ridge regressions from the slots: to the canonical part of these embeddings, and to the tokens that the
        encoder would make their trained parts of. From there few groups train better stems than from random weights
        (docs/LOG.md).

        Raises:
            TrainingError: see `solve`.
        """
        stems = {name: stem for name in fresh if isinstance(stem := self.stem(name), Stem)}
        mode = self.block.training
        self.block.eval()
        seen = moments_towards(stems, self._slots_of(fresh, steps), self._inverted)
        self.block.train(mode)
        for name, canonical in self._canonical_stems(fresh).items():
            stem, own, cross = stems[name], seen.own[name], seen.cross[name]
            directions = ridge(own.covariance, cross.covariance, seen.share(stem, "auto"))
            set_affine(stem, directions[:, : self.options.dim], own.mean, cross.right_mean[: self.options.dim])
            set_linear(canonical, directions[:, self.options.dim :], own.mean)
            if name in self.pools:
                self._quieten(name)

    @torch.no_grad()
    def _inverted(self, modality: str, embeddings: Tensor) -> Tensor:
        """Return embeddings [B, D] with tokens that `encode` maps to their trained parts in place of these.

        The iteration is u <- u + (e - encode(u)) / 2: near the start of a training the encoder is the identity, or
        twice that with attention to a single token.
        """
        contexts = self.fusion.neutral + self.context(modality)
        mask = torch.ones(len(embeddings), 1, dtype=torch.bool, device=embeddings.device)
        tokens = []
        trained = embeddings[:, : self.options.dim].chunk(len(contexts), -1)
        for part, context in zip(trained, contexts, strict=True):
            wanted = normalize(part, dim=-1)
            token = wanted.clone()
            for _ in range(INVERSIONS):
                token += (wanted - self.encode(token[:, None], mask, context)) / 2
            tokens.append(token)
        return torch.cat([*tokens, embeddings[:, self.options.dim :]], -1)

    @torch.no_grad()
    def _quieten(self, modality: str) -> None:
        """Make the pooled token of a sequence small, and the slots carry the mean of all tokens."""
        pool, stem = self.pools[modality], self.stem(modality)
        assert isinstance(pool, SequencePool)
        assert isinstance(stem, Stem)
        shrink(pool)
        share = self.modalities[modality].slots / (self.modalities[modality].slots + 1)
        stem.weight.div_(share)
        stem.bias.div_(share)

    def _canonical_stems(self, names: Iterable[str]) -> dict[str, Stem]:
        return {name: stem for name in names if isinstance(stem := self.canonical[name], Stem)}

    def _slots_of(self, names: Collection[str], steps: Iterable[Step]) -> Iterator[Step]:
        """The steps, of whose tokens only slots are left for the modalities `names`."""
        for step in steps:
            slots = {name: self.modalities[name].slots_of(step.tokens[name]) for name in names if name in step.tokens}
            yield replace(step, tokens={**step.tokens, **slots})

    def objective(self, loss: Loss, embeddings: Mapping[str, Tensor], step: Step) -> Tensor:
        """Return the mean of the losses of all parts."""
        values = []
        for number in range(self.options.parts):
            part = {
                name: normalize(vectors[:, : self.options.dim].chunk(self.options.parts, -1)[number], dim=-1)
                for name, vectors in embeddings.items()
            }
            values.append(super().objective(loss, part, step))
        return torch.stack(values).mean()


class ContextEncoder(nn.Module):
    """Learnable vectors for each part of each modality, passed through a small shared MLP."""

    def __init__(self, modalities: list[str], parts: int, dim: int) -> None:
        super().__init__()
        self.vectors = nn.ParameterDict({name: nn.Parameter(torch.randn(parts, dim) * 0.02) for name in modalities})
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        shrink(self.mlp[-1])

    def forward(self, modality: str) -> Tensor:
        """Return the encoded contexts [parts, d] of a modality."""
        return self.mlp(self.vectors[modality])
