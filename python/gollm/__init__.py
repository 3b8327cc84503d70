"""gollm: train and run small language models on hand-written kernels.

>>> import gollm                                              # doctest: +SKIP
>>> model = gollm.load("runs/shakespeare/best.golm")          # doctest: +SKIP
>>> model.generate("ROMEO:", max_new_tokens=100, seed=1)      # doctest: +SKIP

Submodules and the names below are imported when they are first used, so that `import gollm` stays fast.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from gollm.system import threads as _threads  # first: it decides how the extension module's threads wait

# isort: split
from gollm._native import __version__, num_threads, set_num_threads
from gollm.errors import CheckpointError, ConfigError, GollmError

if TYPE_CHECKING:
    from pathlib import Path

try:
    _threads.initialise()
except ConfigError as error:
    if os.path.basename(sys.argv[0]) in ("gollm", "-m"):  # the command line: one line, as for any mistake
        raise SystemExit(f"gollm: {error}") from None
    raise

# name -> the module that defines it
_LAZY: dict[str, str] = {
    "Conversation": "gollm.inference.chat",
    "Decoder": "gollm.model.decoder",
    "Engine": "gollm.inference.engine",
    "FinetuneOptions": "gollm.finetuning.options",
    "LanguageModel": "gollm.language_model",
    "ModelConfig": "gollm.model.config",
    "Plan": "gollm.nn.plan",
    "Sampling": "gollm.inference.sampling",
    "Tensor": "gollm.nn.tensor",
    "TrainOptions": "gollm.training.options",
    "Trainer": "gollm.training.trainer",
    "finetune": "gollm.finetuning.job",
    "load": "gollm.language_model",
    "no_grad": "gollm.nn.tape",
    "tensor": "gollm.nn.tensor",
}

# `train` is the module gollm.train, which can be called.
__all__ = ["CheckpointError", "GollmError", "__version__", "get_include", "num_threads", "set_num_threads", "train"]
__all__ += _LAZY


def get_include() -> Path:
    """The folder with gollm.h, the C header of the kernels."""
    from pathlib import Path

    from gollm import _native

    return Path(_native.__file__).parent / "include"  # an editable install has both outside the checkout


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    else:
        try:
            value = importlib.import_module(f"gollm.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"gollm.{name}":
                raise
            raise AttributeError(f"module 'gollm' has no attribute '{name}'") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
