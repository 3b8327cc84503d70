"""csrc/gate.c"""

import numpy as np

from kernels.harness import kernel
from kernels.references.activation import ROW, activation, activation_gradient, wide


@kernel("gate_forward", inputs={"gate": wide}, **ROW)
def gate_forward(gate, up, kind):
    return {"y": activation(kind, gate) * up}


@kernel("gate_backward", forward="gate_forward", nonfinite=[np.nan], **ROW)
def gate_backward(dy, gate, up, kind):
    return {"dgate": dy * up * activation_gradient(kind, gate), "dup": dy * activation(kind, gate)}
