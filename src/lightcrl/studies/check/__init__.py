"""A look at encoders and data on a sample, before any training: what fits, what is weak, what leaks, what to expect."""
