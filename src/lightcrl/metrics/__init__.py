"""Evaluation: embeddings in, figures with intervals out."""

from lightcrl.metrics.result import Result

__all__ = ["Result"]
