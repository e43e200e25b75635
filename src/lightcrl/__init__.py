"""LightCRL."""
