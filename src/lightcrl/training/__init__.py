"""Training: the plan, the batches, the gradient, and the one loop."""
