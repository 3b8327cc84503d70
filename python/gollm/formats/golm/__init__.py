"""gollm's own `*.golm` files."""

from gollm.formats.golm.checkpoint import CheckpointFile, describe, open_checkpoint, strip, write_checkpoint

__all__ = ["CheckpointFile", "describe", "open_checkpoint", "strip", "write_checkpoint"]
