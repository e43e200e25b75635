"""Evaluation: embeddings in, figures with intervals out."""

from lightcrl.evaluation.base import EVALUATIONS, Result

__all__ = ["EVALUATIONS", "Result"]
