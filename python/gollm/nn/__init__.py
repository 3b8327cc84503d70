"""Tensors, the tape, the operations, parameters and optimisers: what a model is made of and trained with."""

from gollm.nn.dtypes import DType, dtype_of
from gollm.nn.ops import ACTIVATIONS, activation, cross_entropy, linear
from gollm.nn.optimizer import SGD, AdamW, Optimizer
from gollm.nn.parameters import Module, Parameter, ParameterArena
from gollm.nn.recompute import recompute
from gollm.nn.schedule import learning_rate
from gollm.nn.storage import Storage
from gollm.nn.tape import Op, activations_as
from gollm.nn.tensor import from_dlpack

__all__ = [
    "ACTIVATIONS",
    "SGD",
    "AdamW",
    "DType",
    "Module",
    "Op",
    "Optimizer",
    "Parameter",
    "ParameterArena",
    "Storage",
    "activation",
    "activations_as",
    "cross_entropy",
    "dtype_of",
    "from_dlpack",
    "learning_rate",
    "linear",
    "recompute",
]
