"""Studies: whole experiments that return data and draw nothing."""
