"""Activation recomputation: less memory for more time (Chen et al. 2016, "Training Deep Nets with Sublinear Memory
Cost").

Of everything that `recompute(function, x)` computes, the tape keeps x alone. When backward comes there, the function
runs a second time, now recorded, and what it recorded takes its place on the tape: gradients flow on from it to
wherever x came from, with the same bits as if it had been recorded at once. (Where activations are kept as bfloat16,
x is rounded, and the second run starts from that: the bits are then others.)
"""

from __future__ import annotations

from collections.abc import Callable

from gollm.nn.storage import Storage
from gollm.nn.tape import Destinations, Op, is_recording, no_grad, second_forward
from gollm.nn.tensor import Tensor

Function = Callable[..., Tensor]


def recompute(function: Function, *inputs: Tensor | None) -> Tensor:
    """function(*inputs), without memory for what it computes on the way.

    The function must do the same when it runs again: what it depends on beside its inputs must not have changed by
    then, weights and the counter of dropout included. Its parameters get their gradients as always."""
    return _Recompute.apply(*inputs, function=function)


def call(function: Function, *inputs: Tensor | None) -> Tensor:
    """function(*inputs), for a caller that chooses between this and recompute()."""
    return function(*inputs)


class _Recompute(Op):
    """y = function(inputs)"""

    def __init__(self, inputs: tuple[Tensor | None, ...]) -> None:
        super().__init__(inputs)
        self.recording = is_recording()  # whatever the inputs are, the function may have parameters of its own

    def forward(self, *inputs: Storage | None, function: Function) -> Storage:
        self.save(function, [None if x is None else self.keep(x) for x in inputs])
        with no_grad():
            return function(*[None if x is None else Tensor(x) for x in inputs]).computed()

    def backward(self, dy: Storage, into: Destinations) -> None:
        function, kept = self.saved
        wide = {id(k): k.wide() for k in kept if k is not None}  # x may be its own residual
        inputs = [_again(origin, k and wide[id(k)]) for origin, k in zip(self.inputs, kept, strict=True)]
        with second_forward(self):
            y = function(*inputs)
        into.go_on_from(y, dy)


def _again(origin: Op | Tensor | None, value: Storage | None) -> Tensor | None:
    """An input with its values, whose gradient goes where it would have gone."""
    if isinstance(origin, Tensor):
        return origin
    return None if value is None else Tensor(value, origin is not None, origin)
