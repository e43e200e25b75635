"""Evaluation: embeddings in, figures with intervals out."""

from lightcrl.metrics.result import EVALUATIONS, Result

__all__ = ["EVALUATIONS", "Result"]
