"""Methods: the Deep Fusion Encoder and its rivals, with a common interface."""

from __future__ import annotations

from lightcrl.methods.base import Method, Step
from lightcrl.methods.stems import Inlet, MethodOptions, Stem
from lightcrl.registry import Table

__all__ = ["METHODS", "Inlet", "Method", "MethodOptions", "Stem", "Step"]

METHODS: Table[type[Method]] = Table(
    "method",
    {
        "dfe": "lightcrl.methods.dfe:DeepFusionEncoder",
        "linear": "lightcrl.methods.linear:Linear",
        "mlp": "lightcrl.methods.mlp:MLP",
        "clip": "lightcrl.methods.clip:CLIP",
        "convirt": "lightcrl.methods.convirt:ConVIRT",
        "csa": "lightcrl.methods.csa:CSA",
        "asif": "lightcrl.methods.asif:ASIF",
        "fusemix": "lightcrl.methods.fusemix:FuseMix",
        "sail": "lightcrl.methods.sail:SAIL",
        "sharelock": "lightcrl.methods.sharelock:ShareLock",
        "structure": "lightcrl.methods.structure:Structure",
        "lightcrl_paper": "lightcrl.methods.lightcrl_paper:LightCRLPaper",
    },
)
