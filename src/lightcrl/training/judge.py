"""Evaluation on dev during training: the figure that decides the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from lightcrl.features.embed import embed_together
from lightcrl.features.table import Features
from lightcrl.methods import Method
from lightcrl.metrics.result import Result
from lightcrl.metrics.retrieval import Retrieval, mean_recall


@dataclass(frozen=True)
class Judgement:
    """The result of an evaluation on dev.

    Attributes:
        figures: figures for the log; the first decides the best checkpoint.
        result: function that computes all figures.
    """

    figures: Mapping[str, float]
    result: Callable[[], Result]


Judge = Callable[[Method, Features, int], Judgement]
"""A function that evaluates a method after a number of epochs."""


def by_retrieval(method: Method, features: Features, epoch: int) -> Judgement:
    """Return mean R@1 over all directions on dev, which all processes embed and rank together."""
    vectors, links = embed_together(method, features, features.split("dev"))
    return judge_ranks(Retrieval(links), vectors)


def judge_ranks(retrieval: Retrieval, vectors: Mapping[str, torch.Tensor]) -> Judgement:
    """Return mean R@1 over all directions of embeddings [N_m, d], which all processes rank together."""
    per_query = retrieval.per_query(vectors, together=True)
    sizes = {modality: len(each) for modality, each in vectors.items()}
    return Judgement({"dev_mean_recall@1": mean_recall(per_query)}, lambda: retrieval.result(per_query, sizes))
