"""The decoder: its configuration, its layers, and how they are put together."""

from gollm.model.batch import Batch, Cache
from gollm.model.config import PRESETS, preset
from gollm.model.generation_defaults import GenerationDefaults
from gollm.model.options import ModelOptions

__all__ = ["PRESETS", "Batch", "Cache", "GenerationDefaults", "ModelOptions", "preset"]
