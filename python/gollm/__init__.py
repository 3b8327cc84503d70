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
from typing import TYPE_CHECKING

from gollm.system import threads as _threads  # first: it decides how the extension module's threads wait

# isort: split
from gollm._native import __version__, num_threads, set_num_threads
from gollm.errors import CheckpointError, ConfigError, GollmError

if TYPE_CHECKING:  # what __getattr__ imports, for type checkers
    from pathlib import Path

    import gollm.cuda
    import gollm.data
    import gollm.errors
    import gollm.evaluation
    import gollm.formats
    import gollm.inference
    import gollm.kernels
    import gollm.model
    import gollm.nn
    import gollm.options
    import gollm.quantisation
    import gollm.tokenizers
    import gollm.training  # noqa: F401
    from gollm.finetuning.job import finetune
    from gollm.finetuning.options import FinetuneOptions
    from gollm.inference.chat import Conversation
    from gollm.inference.engine import Engine
    from gollm.inference.sampling import Sampling
    from gollm.language_model import LanguageModel, load
    from gollm.model.config import ModelConfig
    from gollm.model.decoder import Decoder
    from gollm.nn.plan import Plan
    from gollm.nn.tape import no_grad
    from gollm.nn.tensor import Tensor, tensor
    from gollm.training.job import train
    from gollm.training.options import TrainOptions
    from gollm.training.trainer import Trainer

try:
    _threads.initialise()
except ConfigError as error:
    if os.path.basename(sys.argv[0]) in ("gollm", "-m"):  # the command line: one line, as for any mistake
        raise SystemExit(f"gollm: {error}") from None
    raise

# name -> the module that defines it
_LAZY = {
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
# The modules and packages here that are public.
_ROOMS = (
    *("cuda", "data", "errors", "evaluation", "formats", "inference", "kernels", "model", "nn", "options"),
    *("quantisation", "tokenizers", "training"),
)

__all__ = [  # in full, for type checkers
    "CheckpointError",
    "Conversation",
    "Decoder",
    "Engine",
    "FinetuneOptions",
    "GollmError",
    "LanguageModel",
    "ModelConfig",
    "Plan",
    "Sampling",
    "Tensor",
    "TrainOptions",
    "Trainer",
    "__version__",
    "finetune",
    "get_include",
    "load",
    "no_grad",
    "num_threads",
    "set_num_threads",
    "tensor",
    "train",  # the module gollm.train, which can be called
]


def get_include() -> Path:
    """The folder with gollm.h, the C header of the kernels."""
    from pathlib import Path

    from gollm import _native

    return Path(_native.__file__).parent / "include"  # an editable install has both outside the checkout


if not TYPE_CHECKING:  # for a type checker a name that is not above does not exist

    def __getattr__(name):
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
    return sorted({*__all__, *_ROOMS, *(name for name in globals() if name.startswith("__"))})
