"""Check of encoders and data on a sample before training: fit, weaknesses, leaks, expected recall."""
