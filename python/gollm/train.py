"""`python -m gollm.train` trains a model, and `gollm.train(options)` does the same from a program."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gollm.training import Callback, TrainResult
    from gollm.training.options import TrainOptions


class _Callable(ModuleType):
    """The module is the function too, so that gollm.train(options) works whoever imported it first."""

    def __call__(self, options: TrainOptions, callbacks: Sequence[Callback] = ()) -> TrainResult:
        """Trains as `gollm train` does."""
        from gollm.training.job import train

        return train(options, callbacks)


if __name__ == "__main__":
    from gollm.cli.main import main

    sys.exit(main(["train", *sys.argv[1:]]))
else:
    sys.modules[__name__].__class__ = _Callable
