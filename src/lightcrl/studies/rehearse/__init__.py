"""A rehearsal: a run on a few groups in a temporary folder, and a forecast of the whole run from measured rates."""

from lightcrl.studies.rehearse.rehearse import Rehearsal, rehearse

__all__ = ["Rehearsal", "rehearse"]
