"""A generated world of three modalities: pictures, sounds and texts of the same scenes, generated on demand.

It needs no network and no disk, takes seconds, and is the same on every machine: for demos, tests and first steps.
"""

from lightcrl.data.synthetic.caption import describe
from lightcrl.data.synthetic.picture import draw
from lightcrl.data.synthetic.scene import ATTRIBUTES, Scene, unseen_combinations
from lightcrl.data.synthetic.sound import sound
from lightcrl.data.synthetic.source import Synthetic
from lightcrl.data.synthetic.write import write_class_folder, write_table, write_wave

__all__ = [
    "ATTRIBUTES",
    "Scene",
    "Synthetic",
    "describe",
    "draw",
    "sound",
    "unseen_combinations",
    "write_class_folder",
    "write_table",
    "write_wave",
]
