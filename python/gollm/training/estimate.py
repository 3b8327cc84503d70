"""What a run will take, before it takes it: memory from a step that is measured without being computed, time
from the machine's measured speed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gollm.data import TokenDataset
from gollm.inference.pages import CachedSequence, PagePool, next_batch, pages_for
from gollm.kernels import Array, cpu
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn.tape import no_grad
from gollm.system.memory import release_free_memory, resident_bytes
from gollm.training.objective import NextToken, forward_backward
from gollm.training.options import TrainOptions
from gollm.training.trainer import configure, make_optimizer

OVERHEAD = 5 << 20  # bytes: Python's objects, the threads' stacks, and rounding, as measured
SHARE_OF_PRODUCTS = 0.8  # of such a step's time: what products of bfloat16 make shorter
SHARE_OF_PEAK = 0.6  # of the FMA peak that a step of a model that is no toy reaches on a machine that does nothing else
STEP_SECONDS = 2e-4  # of Python in a step: the batch, the log line; the kernels are replayed natively (gollm.nn.plan)
FAULT_AROUND = 64 << 10  # bytes of a mapped file that Linux makes resident at a touch


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes.

    n_parameters      numbers that the model consists of
    state_bytes       weights, gradients and the optimiser's moments
    activation_bytes  what a micro-batch keeps for its backward pass, the temporaries of that pass, and what evaluation
                      and samples need beside
    workspace_bytes   the largest workspace of a kernel
    data_bytes        pages of the mapped tokens, and batches
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

    def seconds(self, n_steps: int, flops_per_second: float, products_speedup: float = 1.0) -> float:
        """For so many steps on a machine with this FMA peak, of which SHARE_OF_PEAK is reached; its products are so
        much faster than those of float32."""
        computing = self.step_flops / (SHARE_OF_PEAK * flops_per_second)
        computing *= 1 - SHARE_OF_PRODUCTS + SHARE_OF_PRODUCTS / products_speedup
        return n_steps * (computing + self.step_overhead)


def estimate(config: ModelConfig, options: TrainOptions, dataset: TokenDataset, n_steps: int) -> Estimate:
    """From a step, an evaluation and a sample that are measured without being computed (gollm.kernels.Kernels.Measure):
    nothing is allocated but the address space."""
    release_free_memory()
    process, peak = resident_bytes()
    measure = cpu.Measure()
    measure.begin()
    try:
        model = Decoder(config)
        configure(model, options)
        optimizer = make_optimizer(model, options)  # its moments
        _ = model.parameters.weights, model.parameters.gradients
        state_bytes = measure.bytes_held
        _measure_step(model, options)
        _measure_evaluation(model, options, len(dataset.validation))
        _measure_sample(model, options)
        activation_bytes = measure.bytes_held - state_bytes
        del optimizer
    finally:
        measure.end()
    return Estimate(
        n_parameters=model.parameters.n_parameters,
        state_bytes=state_bytes,
        activation_bytes=activation_bytes,
        workspace_bytes=measure.workspace_bytes,
        data_bytes=_data_bytes(config, options, n_steps, dataset.n_bytes),
        process_bytes=process + OVERHEAD,
        peak_so_far=peak,
        step_flops=flops_per_token(config) * options.batch_size * config.context * options.grad_accumulation,
        step_overhead=STEP_SECONDS,
    )


def _tokens(*shape: int) -> Array:
    return np.zeros(shape, np.int32)  # memory that nobody writes to takes none


def _measure_step(model: Decoder, options: TrainOptions) -> None:
    k = min(options.grad_accumulation, 2)  # the second adds to the gradients of the first; the others do the same
    tokens = _tokens(k, options.batch_size, model.config.context)
    losses = np.empty(tokens.shape, np.float32)
    forward_backward(model, np.zeros(k, np.int64), tokens, tokens, losses=losses)


def _measure_evaluation(model: Decoder, options: TrainOptions, n_tokens: int) -> None:
    """Its batches are as large as a step's but for the last."""
    windows = min(max(0, n_tokens - 1) // model.config.context, options.eval_batches * options.batch_size)
    with no_grad():
        for rows in (min(windows, options.batch_size), windows % options.batch_size):
            if rows:
                tokens = _tokens(rows, model.config.context)
                NextToken().loss(model, tokens, tokens, np.ones(1), np.empty(tokens.shape, np.float32))


def _measure_sample(model: Decoder, options: TrainOptions) -> None:
    """The prompt, of about a token a character, and a token after it; where the text outgrows the context, half of it
    is the next prompt."""
    if not options.sample_tokens:
        return
    context, prompt = model.config.context, max(1, len(options.sample_prompt))
    sequence = CachedSequence(PagePool(model.config, pages_for(min(context, prompt + options.sample_tokens))))
    for rows in (min(context, prompt), 1 if prompt + options.sample_tokens <= context else max(1, context // 2)):
        sequence.clear()
        model.next_logits(next_batch([sequence], [[0] * rows]))


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


def _data_bytes(config: ModelConfig, options: TrainOptions, n_steps: int, mapped_bytes: int) -> int:
    """What NumPy holds: pages of the mapped tokens, and batches."""
    windows = n_steps * options.grad_accumulation * options.batch_size
    pieces = mapped_bytes / FAULT_AROUND
    touched = mapped_bytes * -math.expm1(-windows / pieces) if pieces else 0.0  # windows lie at random
    training = 6 * options.grad_accumulation + 1  # inputs and targets twice, positions, losses; the sampler's rows
    evaluation = 2 * options.eval_batches + 3  # inputs and targets of all; losses, and their sums in double precision
    return round(touched) + (training + evaluation) * options.batch_size * config.context * 4
