"""Every error that gollm raises for a user's mistake or a broken file; `gollm.errors.GollmError` catches them all.

A message is one sentence that says what was wrong, with which value, what is allowed, and what to do; the command
line prints it behind `gollm: `. Something odd that does not stop the work is a GollmWarning, which the command line
prints behind `gollm: warning: `.
"""

from __future__ import annotations

import warnings

__all__ = [  # gollm has GollmError and CheckpointError
    "ConfigError",
    "DTypeError",
    "DataError",
    "DeviceError",
    "EvaluationError",
    "FormatError",
    "GenerationError",
    "GollmWarning",
    "HubError",
    "KernelError",
    "PictureError",
    "ShapeError",
    "TokenizerError",
    "TrainingError",
]


class GollmError(Exception):
    """The base of all of gollm's own exceptions."""


class ConfigError(GollmError, ValueError):
    """An option or a model configuration has an unknown name or a value that is not allowed."""


class ShapeError(GollmError, ValueError):
    """Tensors whose shapes do not fit together."""


class DTypeError(GollmError, TypeError):
    """A tensor of a dtype that an operation does not take."""


class DeviceError(GollmError, RuntimeError):
    """A device that is not there, or that cannot do what it was asked for."""


class TokenizerError(GollmError, ValueError):
    """A tokenizer file that cannot be used, or a token id outside the vocabulary."""


class DataError(GollmError, ValueError):
    """Training data that is missing, empty, too short, or cannot be decoded."""


class FormatError(GollmError, ValueError):
    """A model's file that is damaged, hostile or of a kind that is not supported, or a model that a format cannot
    hold."""


class CheckpointError(FormatError):
    """The same of gollm's own format: a checkpoint that is damaged, of another version, or could not be written."""


class HubError(GollmError, RuntimeError):
    """A model that could not be fetched from the Hugging Face hub."""


class TrainingError(GollmError, RuntimeError):
    """Training cannot go on: a loss that is not finite, a run folder that cannot be used."""


class GenerationError(GollmError, ValueError):
    """A prompt or sampling option that generation does not take."""


class EvaluationError(GollmError, RuntimeError):
    """A model cannot be evaluated: its logits are not finite, the text is too short, or two vocabularies differ."""


class PictureError(GollmError, RuntimeError):
    """A picture that cannot be drawn or written: a library is missing, or its file's name ends otherwise."""


class KernelError(GollmError, RuntimeError):
    """A kernel refused its arguments."""


class GollmWarning(UserWarning):
    """Something in a file from outside is odd; gollm leaves it out and goes on."""


def warn(message: str) -> None:
    """Issues a GollmWarning: one sentence that names the file, what is odd in it, and what gollm does instead."""
    warnings.warn(message, GollmWarning, stacklevel=2)
