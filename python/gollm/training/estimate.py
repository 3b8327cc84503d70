"""What a run will take, before it takes it: memory from a step that is measured without being computed, time
from the machine's measured speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gollm import cuda
from gollm.errors import ConfigError
from gollm.inference.pages import CachedSequence, PagePool, cache_dtype_of, next_batch, pages_for
from gollm.kernels import Array, Kernels, cpu
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn.tape import no_grad
from gollm.system.memory import available_bytes, release_free_memory, resident_bytes
from gollm.training.objective import NextToken, Objective, forward_backward
from gollm.training.options import LoopOptions
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
    on_device         whether state, activations and workspace lie in the memory of a device, beside the process'
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
    on_device: bool = False

    @property
    def new_bytes(self) -> int:
        """What training adds to the process."""
        return self.data_bytes + (0 if self.on_device else self.computing_bytes)

    @property
    def computing_bytes(self) -> int:
        """What it takes where it computes."""
        return self.state_bytes + self.activation_bytes + self.workspace_bytes

    @property
    def wanted_bytes(self) -> int:
        """What must be free where it computes."""
        return self.computing_bytes if self.on_device else self.new_bytes

    @property
    def free_bytes(self) -> int | None:
        """What is free there now, None where nobody says."""
        return cuda.describe()["free_bytes"] if self.on_device else available_bytes()

    @property
    def other_bytes(self) -> int:
        """What is neither state nor activations."""
        return (self.computing_bytes if self.on_device else self.total_bytes) - self.state_bytes - self.activation_bytes

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


@dataclass(frozen=True)
class Workload:
    """What is trained, and on what: as much of it as an estimate needs.

    build         makes the model as it will be trained; what it takes counts as state
    batch         the arrays of a micro-batch: of the longest sequences, whatever is in them
    evaluation    the batches of an evaluation, those of one shape once
    prompt        tokens of a sample's prompt
    mapped_bytes  of files that batches are read from
    kernels       of the device that the model is on
    """

    build: Callable[[], Decoder]
    batch: Sequence[Array]
    evaluation: Sequence[Sequence[Array]]
    prompt: int
    mapped_bytes: int = 0
    objective: Objective = field(default_factory=NextToken)
    kernels: Kernels = cpu


def blank(*shape: int) -> Array:
    """Tokens for a workload: memory that nobody writes to takes none."""
    return np.zeros(shape, np.int32)


def estimate(work: Workload, options: LoopOptions, n_steps: int) -> Estimate:
    """From a step, an evaluation and a sample that are measured without being computed (gollm.kernels.Kernels.Measure):
    nothing is allocated but the address space."""
    release_free_memory()
    process, peak = resident_bytes()
    measure = work.kernels.Measure()
    measure.begin()
    try:
        model = work.build()
        configure(model, options)
        optimizer = make_optimizer(model, options)  # its moments
        _ = model.parameters.weights, model.parameters.gradients
        state_bytes = measure.bytes_held
        _measure_step(model, work, options)
        _measure_evaluation(model, work)
        _measure_sample(model, work, options)
        activation_bytes = measure.bytes_held - state_bytes
        del optimizer
    finally:
        measure.end()
    n_tokens, length = work.batch[0].size, work.batch[0].shape[1]
    return Estimate(
        n_parameters=model.parameters.n_parameters,
        state_bytes=state_bytes,
        activation_bytes=activation_bytes,
        workspace_bytes=measure.workspace_bytes,
        data_bytes=_data_bytes(work, options, n_steps),
        process_bytes=process + OVERHEAD,
        peak_so_far=peak,
        step_flops=flops_per_token(model, length) * n_tokens * options.grad_accumulation,
        step_overhead=STEP_SECONDS,
        on_device=not work.kernels.is_cpu,
    )


def _measure_step(model: Decoder, work: Workload, options: LoopOptions) -> None:
    k = min(options.grad_accumulation, 2)  # the second adds to the gradients of the first; the others do the same
    batches = [np.zeros((k, *array.shape), array.dtype) for array in work.batch]
    each = work.kernels.from_host(np.empty((k, *work.objective.each_shape(work.batch)), np.float32))
    forward_backward(
        model, np.zeros(k, np.int64), *batches, denominator=np.ones(1), objective=work.objective, each=each
    )


def _measure_evaluation(model: Decoder, work: Workload) -> None:
    with no_grad():
        for batch in work.evaluation:
            each = work.kernels.from_host(np.empty(work.objective.each_shape(batch), np.float32))
            work.objective.loss(model, batch, np.ones(1), each)


def _measure_sample(model: Decoder, work: Workload, options: LoopOptions) -> None:
    """The prompt, and a token after it; where the text outgrows the context, half of it is the next prompt."""
    if not options.sample_tokens or not work.prompt:
        return
    context, prompt = model.config.context, work.prompt
    n_pages = pages_for(min(context, prompt + options.sample_tokens))
    sequence = CachedSequence(PagePool(model.config, n_pages, cache_dtype_of(model), work.kernels))
    for rows in (min(context, prompt), 1 if prompt + options.sample_tokens <= context else max(1, context // 2)):
        sequence.clear()
        model.next_logits(next_batch([sequence], [[0] * rows]))


def flops_per_token(model: Decoder | ModelConfig, length: int | None = None) -> float:
    """4 N + 2 M + 12 L P T, forward and backward: two for each of the N parameters that a token is multiplied by (a
    table of embeddings that is not the head's is only looked up), twice for the gradient of what it is multiplied with,
    and once more for that of the M of them that are trained; and for the T keys and values that attention reads in L
    layers of heads P wide together, or as many as a layer's window has; the causal half is not taken off. T is the
    context, or the `length` of sequences."""
    decoder = Decoder(model) if isinstance(model, ModelConfig) else model
    config, length = decoder.config, length or decoder.config.context
    skipped = () if config.tied_head and not config.labels else ("token_embedding",)
    sizes = [(p.size, p.requires_grad) for name, p in decoder.parameters.items() if name not in skipped]
    multiplied, trained = sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
    seen = sum(min(length, config.window(i) or length) for i in range(config.n_layers))
    return 4 * multiplied + 2 * trained + 12 * config.n_heads * config.head_dim * seen


def _data_bytes(work: Workload, options: LoopOptions, n_steps: int) -> int:
    """What NumPy holds: pages of the mapped tokens, and batches."""
    n_batch, n_tokens = len(work.batch[0]), work.batch[0].size
    windows = n_steps * options.grad_accumulation * n_batch
    pieces = work.mapped_bytes / FAULT_AROUND
    touched = work.mapped_bytes * -math.expm1(-windows / pieces) if pieces else 0.0  # windows lie at random
    training = 6 * options.grad_accumulation + 1  # inputs and targets twice, positions, losses; the sampler's rows
    evaluation = 2 * options.eval_batches + 3  # inputs and targets of all; losses, and their sums in double precision
    return round(touched) + (training + evaluation) * n_tokens * 4


def refuse_unless_fits(estimate_of: Callable[[int], Estimate], options: LoopOptions) -> Estimate:
    """The estimate of a run whose micro-batches have so many sequences, options.batch_size of them. Raises ConfigError
    where that does not fit into free memory, with the largest batch that does."""
    needs, free = estimate_of(options.batch_size), None
    if options.force or not (free := needs.free_bytes) or needs.wanted_bytes <= free:
        return needs
    fits, too_large = 0, options.batch_size
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if estimate_of(middle).wanted_bytes <= free:
            fits = middle
        else:
            too_large = middle
    k = -(-options.batch_size * options.grad_accumulation // max(1, fits))
    largest = f"the largest batch that fits is --batch-size {fits} (with --grad-accumulation {k} for as large a step)"
    raise ConfigError(
        f"training needs about {in_bytes(needs.wanted_bytes)} of memory and {in_bytes(free)} are free; "
        + (largest if fits else "not even --batch-size 1 fits: use a smaller model or --context")
        + ". --recompute block and --activation-dtype bfloat16 need less, --force trains nevertheless"
    )


def in_bytes(n: float) -> str:
    """
    >>> in_bytes(950), in_bytes(13_200_000), in_bytes(2_547_590_000)
    ('950 bytes', '13 MB', '2.55 GB')
    """
    for unit in ("bytes", "KB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:.2f} GB"
