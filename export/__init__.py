"""Exports trained PyTorch networks to ONNX graphs and bundles. Needs torch; the runtime does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import build_bundle
    from .checkpoints.checkpoint import Checkpoint, load_checkpoint

__all__ = ["Checkpoint", "build_bundle", "load_checkpoint"]


def __getattr__(name: str) -> Any:
    """Import these names on first use, because the command line must start without torch."""
    if name == "build_bundle":
        from .build import build_bundle

        return build_bundle
    if name in __all__:
        from .checkpoints import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
