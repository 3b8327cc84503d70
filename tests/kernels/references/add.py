"""csrc/add.c"""

from kernels.harness import LENGTHS, kernel


@kernel("add", shapes=[(n,) for n in LENGTHS])
def add(a, b):
    return {"c": a + b}
