"""Encoders without weights: fixed descriptors of texts, pictures and sounds, for work without a network.

They describe content (words, colours, shapes, texture, places, pitch, rhythm) in numbers that a linear map can use.
Their tokens are float32 on the CPU, and the same on every machine up to rounding. A change of a descriptor's output
must raise its `version`, which is part of the fingerprint.
"""
