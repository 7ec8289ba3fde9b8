"""Measuring a model against people, graph segmentations and generated scenes."""
