"""gollm's own `*.golm` files."""

from gollm.formats.golm.checkpoint import CheckpointFile, checkpoint_info, open_checkpoint, strip, write_checkpoint

__all__ = ["CheckpointFile", "checkpoint_info", "open_checkpoint", "strip", "write_checkpoint"]
