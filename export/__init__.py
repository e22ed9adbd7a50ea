"""Trained PyTorch networks to ONNX graphs and bundles. Needs torch, which the runtime does not."""

from .build import build_bundle
from .checkpoints.checkpoint import Checkpoint, load_checkpoint

__all__ = ["Checkpoint", "build_bundle", "load_checkpoint"]
