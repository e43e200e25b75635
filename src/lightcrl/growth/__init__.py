"""Extension of a trained model: modalities are added, removed or given another encoder; the rest stays bit for bit."""
