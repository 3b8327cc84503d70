"""What a run will take, before it takes it: memory from the sizes of every buffer, time from the machine's measured
speed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gollm import _native as kernels
from gollm.data import TokenDataset
from gollm.inference.pages import PAGE_SIZE
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.system.memory import release_free_memory, resident_bytes
from gollm.training.options import TrainOptions

FLOAT_BYTES = 4
OVERHEAD = 5 << 20  # bytes: Python's objects, the threads' stacks, and rounding, as measured
SHARE_OF_PEAK = 0.6  # of the FMA peak that a step of a model that is no toy reaches on a machine that does nothing else
STEP_SECONDS = 2e-4  # of Python in a step: the batch, the log line; the kernels are replayed natively (gollm.nn.plan)
FAULT_AROUND = 64 << 10  # bytes of a mapped file that Linux makes resident at a touch


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes.

    n_parameters      numbers that the model consists of
    state_bytes       weights, gradients and the optimiser's moments
    activation_bytes  what one micro-batch keeps for its backward pass, the largest temporaries of that pass, and what
                      evaluation needs beside
    workspace_bytes   the largest workspace of a kernel
    data_bytes        pages of the mapped tokens, batches, and the cache of keys and values of samples
    process_bytes     what the process has in memory already: Python, libraries, the tokenizer
    peak_so_far       the most that the process had so far, while it tokenised the data
    step_flops        floating-point operations of a step, see flops_per_token()
    step_overhead     seconds of a step in which nothing is computed
    """

    n_parameters: int
    state_bytes: int
    activation_bytes: int
    workspace_bytes: int
    data_bytes: int
    process_bytes: int
    peak_so_far: int
    step_flops: float
    step_overhead: float

    @property
    def new_bytes(self) -> int:
        """What training adds to the process."""
        return self.state_bytes + self.activation_bytes + self.workspace_bytes + self.data_bytes

    @property
    def other_bytes(self) -> int:
        """What is neither state nor activations."""
        return self.total_bytes - self.state_bytes - self.activation_bytes

    @property
    def total_bytes(self) -> int:
        """The process' peak."""
        return max(self.process_bytes + self.new_bytes, self.peak_so_far)

    def seconds(self, n_steps: int, flops_per_second: float) -> float:
        """For so many steps on a machine with this FMA peak, of which SHARE_OF_PEAK is reached."""
        return n_steps * (self.step_flops / (SHARE_OF_PEAK * flops_per_second) + self.step_overhead)


def estimate(config: ModelConfig, options: TrainOptions, dataset: TokenDataset, n_steps: int) -> Estimate:
    """From configuration, options and the sizes of the data alone; nothing of it is allocated."""
    release_free_memory()
    parameters = Decoder(config).parameters
    arena = parameters.size * FLOAT_BYTES
    moments = 2 if options.optimizer == "adamw" else 1
    process, peak = resident_bytes()
    return Estimate(
        n_parameters=parameters.n_parameters,
        state_bytes=(2 + moments) * arena,
        activation_bytes=_training_bytes(config, options)
        + FLOAT_BYTES * _evaluation_floats(config, options, len(dataset.validation)),
        workspace_bytes=max(_workspaces(config, options.batch_size, arena // FLOAT_BYTES)),
        data_bytes=_data_bytes(config, options, n_steps, dataset.n_bytes),
        process_bytes=process + OVERHEAD,
        peak_so_far=peak,
        step_flops=flops_per_token(config) * options.batch_size * config.context * options.grad_accumulation,
        step_overhead=STEP_SECONDS,
    )


def flops_per_token(config: ModelConfig) -> float:
    """6 N + 12 L P T, forward and backward: two for each of the N parameters that a token is multiplied by (a table of
    embeddings that is not the head's is only looked up) and of the T keys and values that attention reads in L layers
    of heads P wide together, or as many as a layer's window has; twice again for the backward pass; the causal half is
    not taken off."""
    n_parameters = Decoder(config).parameters.n_parameters
    if not config.tied_head:
        n_parameters -= config.vocab_size * config.d_model
    seen = sum(min(config.context, config.window(i) or config.context) for i in range(config.n_layers))
    return 6 * n_parameters + 12 * config.n_heads * config.head_dim * seen


def _training_bytes(config: ModelConfig, options: TrainOptions) -> int:
    """What the tape holds for one micro-batch: what all operations keep until their backward pass, and what that pass
    needs beside, in the last block's MLP and attention."""
    C, F, E, H = config.d_model, config.d_ff, config.qkv_size, config.n_heads
    P = H * config.head_dim
    of_norms = 2 if config.norm == "rmsnorm" else 4
    kept, numbers = {  # of a block: activations; the norms' means and deviations, attention's sums
        "none": (4 * C + E + P + 2 * F, of_norms + H),
        "mlp": (2 * C + E + P, H),
        "block": (C, 0),
    }[options.recompute or "none"]
    narrow = options.activation_dtype == "bfloat16"
    again = options.recompute in ("mlp", "block")
    # The gradients of the MLP's hidden layer and of queries, keys and values; beside them what is widened or computed
    # again. What was kept is free by then, but of another size.
    ungated = 3 if again else 2 if narrow else 1
    wide = (5 if again or narrow else 3) * F if config.gated_mlp else ungated * F
    wide += (2 if narrow or options.recompute == "block" else 1) * E
    wide += ((3 if config.gated_mlp else 6) if again or narrow else 2) * C + 3
    if options.recompute == "block":  # attention's output and its gradient; copies of the residual stream, as measured
        dropped = (2 if config.gated_mlp else 1) if config.dropout else 0
        wide += 2 * P + ((0 if config.gated_mlp else -2) + (2 if narrow else 0) + dropped) * C
    per_token = (2 if narrow else FLOAT_BYTES) * (config.n_layers * kept + C)
    per_token += FLOAT_BYTES * (config.n_layers * numbers + wide)
    return options.batch_size * config.context * per_token


def _evaluation_floats(config: ModelConfig, options: TrainOptions, n_tokens: int) -> int:
    """Elements for the last evaluation batch where it has fewer rows, so that the pool finds no buffer of training's
    for it: one is taken where at most an eighth of it is wasted."""
    windows = max(0, n_tokens - 1) // config.context
    rows = windows % options.batch_size if windows < options.eval_batches * options.batch_size else 0
    if options.batch_size - rows <= options.batch_size / 8:
        return 0
    hidden = (2 if config.gated_mlp else 1) * config.d_ff
    return rows * config.context * (4 * config.d_model + hidden + config.qkv_size)


def _workspaces(config: ModelConfig, batch_size: int, n_weights: int) -> Iterator[int]:
    """What each kernel of a step needs to work."""
    C, F, E, T = config.d_model, config.d_ff, config.qkv_size, config.context
    P, N = config.n_heads * config.head_dim, batch_size * T
    for inputs, outputs in ((C, E), (P, C), (C, F), (F, C)):  # the linear layers, forward and backward
        yield kernels.workspace_bytes("matmul_nt", M=N, N=outputs, K=inputs)
        yield kernels.workspace_bytes("matmul_nn", M=N, N=inputs, K=outputs)
        yield kernels.workspace_bytes("matmul_tn", M=outputs, N=inputs, K=N)
    heads = {"H": config.n_heads, "G": config.n_kv_heads, "D": config.head_dim, "B": batch_size, "T": T}
    yield kernels.workspace_bytes("attention_forward", **heads)
    yield kernels.workspace_bytes("attention_backward", **heads)
    yield kernels.workspace_bytes(f"{config.norm}_backward", N=N, C=C)
    yield kernels.workspace_bytes("head_forward", N=N, C=C, V=config.vocab_size)
    yield kernels.workspace_bytes("head_backward", N=N, C=C, V=config.vocab_size)
    yield kernels.workspace_bytes("gradient_norm", N=n_weights)


def _data_bytes(config: ModelConfig, options: TrainOptions, n_steps: int, mapped_bytes: int) -> int:
    windows = n_steps * options.grad_accumulation * options.batch_size
    pieces = mapped_bytes / FAULT_AROUND
    touched = mapped_bytes * -math.expm1(-windows / pieces) if pieces else 0.0  # windows lie at random
    training = 5 * options.grad_accumulation + 1  # inputs and targets twice, positions; the sampler's rows
    batches = (training + 2 * options.eval_batches) * options.batch_size * config.context * 4
    cached = -(-config.context // PAGE_SIZE) * PAGE_SIZE if options.sample_tokens else 0
    cache = 2 * config.n_layers * cached * config.n_kv_heads * config.head_dim * FLOAT_BYTES
    return round(touched) + batches + cache
