"""unCLIP's decoder (arXiv 2204.06125), small: pictures from embeddings and words."""
