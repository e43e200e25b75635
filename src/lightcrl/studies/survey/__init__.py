"""A look at unknown data, and the first recipe for it: `lightcrl init`."""
