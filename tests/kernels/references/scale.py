"""csrc/scale.c"""

from kernels.harness import LENGTHS, kernel


@kernel("scale", shapes=[(n,) for n in LENGTHS], scalars={"factor": [0.0, -1.75]})
def scale(x, factor):
    return {"y": factor * x}
