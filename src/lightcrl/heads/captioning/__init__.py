"""Captioning: texts for items of any modality, from their cached tokens."""
