"""Encoders without weights: fixed descriptors of texts, pictures and sounds, for work without a network.

They say what is there (words, colours, shapes, texture, places, pitch, rhythm) in numbers that a linear map can read.
Their tokens are float32 on the CPU, and the same on every machine up to rounding. Whoever changes what a descriptor
gives raises its `version`, which is part of the fingerprint.
"""
