"""The mask generator: tensors and arrays in, candidates and masks out. No files, no YAML, no command line.

This package imports nothing by itself: `densecli.engine.parameters` is used by commands that must not import torch.
"""
