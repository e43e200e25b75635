"""unCLIP's prior (arXiv 2204.06125) on a frozen space: the embedding of a text to that of a picture."""
