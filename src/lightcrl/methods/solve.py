"""Closed-form stems: canonical variates of the training split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightcrl.errors import TrainingError
from lightcrl.methods.base import Step
from lightcrl.methods.stems import Inlet, Stem
from lightcrl.metrics.cca import Moments, canonical_variates


class Solved(NamedTuple):
    """Properties of the maps that `solve_stems` computed.

    Attributes:
        shrinkage: shrinkage of the covariances.
        views: number of views of the items.
        filled: number of solved directions, as a share of the number that widths and groups allow: 1, or less if items
            repeat, since there are at most as many directions as distinct items.
    """

    shrinkage: float
    views: int
    filled: float


@torch.no_grad()
def solve_stems(
    stems: Mapping[str, Inlet], steps: Iterable[Step], shrinkage: float | Literal["auto"], power: float
) -> Solved:
    """Set stems to canonical variates, weighted by their correlations to `power`, strongest first.

    Args:
        stems: stems by modality; their weights are overwritten.
        steps: the training split, once for each view.
        shrinkage: shrinkage of the covariances; see `CSAOptions`.
        power: exponent of the correlations; 0 gives all variates equal weight.

    Returns:
        The shrinkage, the number of views and the share of directions.

    Raises:
        TrainingError: no two modalities share a group.
    """
    width = {name: stem.width for name, stem in stems.items()}
    own = {name: Moments(width[name], width[name]) for name in stems}
    cross = {(a, b): Moments(width[a], width[b]) for a, b in combinations(stems, 2)}
    groups, views = torch.zeros(0, dtype=torch.int64), 1
    for step in steps:
        views = max(views, step.view + 1)
        features = {name: stems[name].features(tokens) for name, tokens in step.tokens.items()}
        for name, values in features.items():
            own[name].add(values, values)
        for a, b in combinations(sorted(features), 2):
            left, right = (step.groups[a][:, None] == step.groups[b]).nonzero(as_tuple=True)
            cross[a, b].add(features[a][left], features[b][right])
        groups = torch.unique(torch.cat([groups, *(numbers.cpu() for numbers in step.groups.values())]))
    if not any(moments.count for moments in cross.values()):
        raise TrainingError("no two modalities share a group; expected pairs to correlate.")
    mean_width = sum(width.values()) / len(width)
    shrinkage = mean_width / (mean_width + len(groups)) if shrinkage == "auto" else shrinkage
    regularised = {
        name: moments.covariance + shrinkage / (1 - shrinkage) * moments.covariance.diagonal().diag()
        for name, moments in own.items()
    }
    stem = next(iter(stems.values()))
    assert isinstance(stem, Stem)
    most = min(stem.weight.shape[-1], *width.values(), max(1, len(groups) - 1))
    pairs = {pair: moments.covariance for pair, moments in cross.items()}
    rows = {name: moments.count for name, moments in own.items()}
    correlations, maps = canonical_variates(regularised, pairs, stem.weight.shape[-1], rows)
    # Rounding errors of a zero correlation are not directions.
    real = correlations > 1e-9
    weights = correlations.clamp(min=0) ** power * real
    for name, stem in stems.items():
        assert isinstance(stem, Stem)
        set_linear(stem, maps[name] * weights, own[name].mean)
    return Solved(shrinkage, views, min(1.0, int(real.sum()) / most))


@torch.no_grad()
def regress_stems(
    stems: Mapping[str, Stem], steps: Iterable[Step], shrinkage: float | Literal["auto"] = "auto"
) -> None:
    """Make stems map to the embeddings of what stands in a group with their items, by regularised regression.

        A = (C_xx + p / (1 - p) diag C_xx)^-1 C_xe,  x -> (x - mean) A

    Where embeddings are canonical variates, A is the canonical map that belongs to them, each variate weighted by its
    correlation once more.

    Args:
        stems: stems by modality; their weights are overwritten.
        steps: the training split, once for each view; the tokens of other modalities are embeddings [N, 1, d].
        shrinkage: p, of covariances; see `CSAOptions`.

    Raises:
        TrainingError: no item shares a group with an embedding.
    """
    seen = moments_towards(stems, steps)
    for name, stem in stems.items():
        directions = ridge(seen.own[name].covariance, seen.cross[name].covariance, seen.share(stem, shrinkage))
        set_linear(stem, directions, seen.own[name].mean)


class Towards(NamedTuple):
    """Moments of features, and of features with the embeddings in their groups.

    Attributes:
        own: moments of features by modality.
        cross: moments of features and embeddings by modality.
        groups: number of groups.
    """

    own: Mapping[str, Moments]
    cross: Mapping[str, Moments]
    groups: int

    def share(self, stem: Inlet, shrinkage: float | Literal["auto"]) -> float:
        """Return the shrinkage of a stem's covariance; "auto" is F / (F + G)."""
        return stem.width / (stem.width + self.groups) if shrinkage == "auto" else shrinkage


def moments_towards(
    stems: Mapping[str, Stem], steps: Iterable[Step], targets: Callable[[str, Tensor], Tensor] = lambda _, e: e
) -> Towards:
    """Return the moments of the training split; `steps` and errors as in `regress_stems`.

    `targets` turns the embeddings [N, d] in the groups of a modality into what its features are correlated with.
    """
    own = {name: Moments(stem.width, stem.width) for name, stem in stems.items()}
    cross: dict[str, Moments] = {}
    groups = torch.zeros(0, dtype=torch.int64)
    for step in steps:
        for name in stems.keys() & step.tokens.keys():
            features = stems[name].features(step.tokens[name])
            own[name].add(features, features)
            for other in step.tokens.keys() - stems.keys():
                wanted = targets(name, step.tokens[other].values[:, 0])
                left, right = (step.groups[name][:, None] == step.groups[other]).nonzero(as_tuple=True)
                moments = cross.setdefault(name, Moments(stems[name].width, wanted.shape[1]))
                moments.add(features[left], wanted[right])
        groups = torch.unique(torch.cat([groups, *(numbers.cpu() for numbers in step.groups.values())]))
    for name in stems:
        if name not in cross or not cross[name].count:
            raise TrainingError(f"no item of {name!r} shares a group with an embedding; expected pairs to regress on.")
    return Towards(own, cross, len(groups))


def ridge(own: Tensor, cross: Tensor, share: float) -> Tensor:
    """Return (C_xx + p / (1 - p) diag C_xx)^-1 C_xe from covariances [F, F] and [F, k], with shrinkage p = `share`."""
    # What does not vary has no weight, and must not make the system singular.
    penalty = share / (1 - share) * own.diagonal() + 1e-9 * own.diagonal().mean() + 1e-12
    solved: Tensor = torch.linalg.solve(own + penalty.diag(), cross)
    return solved


def rotation(cross: Tensor) -> Tensor:
    """Return the map [F, k] with orthonormal columns or rows that aligns best (Procrustes), from covariances [F, k]."""
    left, _, right = torch.linalg.svd(cross, full_matrices=False)
    return left @ right


@torch.no_grad()
def set_affine(stem: Stem, directions: Tensor, mean: Tensor, target: Tensor) -> None:
    """Set a stem to the map x -> (x - mean) A + target of an item, A [F, k] as wide as the stem."""
    set_linear(stem, directions, mean)
    stem.bias.add_(target.to(stem.bias.device))


@torch.no_grad()
def set_linear(stem: Stem, directions: Tensor, mean: Tensor) -> None:
    """Set a stem to the map x -> (x - mean) A [F, k] of an item."""
    directions = pad(directions, (0, stem.weight.shape[-1] - directions.shape[1]))
    # The mean over slots divides by their number.
    stem.set_projection(directions.view(stem.weight.shape) * stem.slots)
    stem.bias.copy_((-mean @ directions).expand_as(stem.bias))
