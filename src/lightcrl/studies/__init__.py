"""Studies: whole experiments that give data back and draw nothing."""
