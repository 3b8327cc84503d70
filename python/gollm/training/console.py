"""What `gollm train` prints: a table before it starts, a line every few steps, a progress bar on a terminal."""

from __future__ import annotations

import shlex
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from gollm import cuda
from gollm.nn import products
from gollm.system.machine import fma_peak, isa, num_threads, product_rate
from gollm.training.callbacks import Callback, Training, TrainResult
from gollm.training.estimate import SHARE_OF_PEAK, Estimate, flops_per_token, in_bytes
from gollm.training.options import LoopOptions
from gollm.training.run import Run, resume_command
from gollm.training.state import BITS_PER_BYTE, METRICS, RESOURCES


class Announced(Protocol):
    """A job that is about to run: gollm.training.job.Job, for one."""

    @property
    def options(self) -> LoopOptions: ...
    @property
    def estimate(self) -> Estimate: ...
    @property
    def total_steps(self) -> int: ...
    @property
    def n_done(self) -> int: ...
    @property
    def table(self) -> dict[str, str]: ...


def bfloat16_speedup() -> float:
    """How much faster products of bfloat16 operands are here than those of float32 ones."""
    return product_rate(products.BFLOAT16, 0.1) / product_rate(products.FLOAT32, 0.1)


class Output:
    """Standard output of a run. A full disk under it does not end the run: `failure` is there when it is over."""

    def __init__(self) -> None:
        self.failure: OSError | None = None

    def put(self, text: str, write: Callable[[str], object] = print) -> None:
        """Prints at once. Raises BrokenPipeError where nobody reads any more."""
        try:
            write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as failure:
            self.failure = OSError(failure.errno, failure.strerror, "standard output")


class Console(Callback):
    """Prints to standard output; the bar goes to standard error where that is a terminal.

    `peak` is the machine's, in FLOP/s; None for a GPU, whose is not measured."""

    def __init__(self, peak: float | None) -> None:
        self.output = Output()
        self.peak = peak
        self.flops_per_token = 0.0
        self._bar: Any = None
        self._losses: list[float] = []  # since the last line
        self._first, self._started = 0, 0.0  # the step that this process began after, and when
        self._tokens, self._seconds = 0.0, 0.0  # of this process' steps alone

    def announce(self, job: Announced) -> None:
        """The table of what is about to happen, before anything is allocated for it."""
        for name, value in self._table(job).items():
            self._print(f"{name:<10} {value}")

    def _table(self, job: Announced) -> dict[str, str]:
        return {
            **job.table,
            **(_on_the_gpu(job) if self.peak is None else _on_the_cpu(job, self.peak)),
            "run": str(job.options.out),
        }

    def on_start(self, trainer: Training) -> None:
        self.flops_per_token = flops_per_token(trainer.model, trainer.batches.context)
        self._first, self._started = trainer.step, time.monotonic()
        if trainer.step:
            self._print(f"{'resumed':<10} after step {trainer.step:,} of {trainer.total_steps:,}")
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=trainer.total_steps, initial=trainer.step, unit="step", dynamic_ncols=True, leave=False
            )

    def on_step(self, trainer: Training, metrics: dict[str, Any]) -> None:
        step = metrics["step"]
        self._losses.append(metrics["loss"])
        self._tokens += metrics["tokens_per_second"] * metrics["ms"] / 1e3
        self._seconds += metrics["ms"] / 1e3
        if self._bar is not None:
            self._bar.update(1)
            self._bar.set_postfix(loss=f"{metrics['loss']:.4f}", refresh=False)
        if step in (1, trainer.total_steps) or step % trainer.options.log_every == 0:
            self._print(self.line(metrics, trainer.total_steps))
            self._losses.clear()
        if "validation_loss" in metrics:
            self._print(self.evaluation_line(metrics, trainer))
        if "sample" in metrics:
            self._print(f"--- a sample after step {step}\n{metrics['sample']}\n---")

    def line(self, metrics: dict[str, Any], total_steps: int) -> str:
        """step    1/1000 | loss 4.372 | norm 2.31 | lr 1.0e-04 | 3.0k tok/s | eta 1:25"""
        step, total = metrics["step"], str(total_steps)
        loss, norm = statistics.fmean(self._losses or [metrics["loss"]]), metrics["grad_norm"]
        eta = (time.monotonic() - self._started) / max(1, step - self._first) * (total_steps - step)
        parts = [f"step {step:>{len(total)}}/{total}", f"loss {loss:.{2 if loss >= 10 else 3}f}"]
        parts += [f"{said} {value:.3f}" for said, value in _figures(metrics).items()]
        parts += [
            f"norm {norm:.{2 if norm < 10 else 0}f}" if norm < 1e4 else f"norm {norm:.0e}",
            f"lr {metrics['lr']:.1e}",
        ]
        return " | ".join([*parts, f"{_short(metrics['tokens_per_second'])} tok/s", f"eta {clock(eta)}"])

    def evaluation_line(self, metrics: dict[str, Any], trainer: Training) -> str:
        """step 250 | val 4.4960 | 1.900 bpb | best | 0:24 | 66% of peak"""
        loss, best = metrics["validation_loss"], trainer.best_validation_loss
        parts = [f"step {metrics['step']}", f"val {loss:.4f}"]
        if BITS_PER_BYTE in metrics:
            parts.append(f"{metrics[BITS_PER_BYTE]:.3f} bpb")
        parts += [f"{said} {value:.4f}" for said, value in _figures(metrics, "validation_").items()]
        parts += ["best" if loss == best else f"best {best:.4f}", clock(time.monotonic() - self._started)]
        return " | ".join([*parts, *self._share_of_peak()])

    def _share_of_peak(self) -> list[str]:
        """What this process' steps have reached of the machine's peak, on average."""
        if self.peak is None or not self._seconds:
            return []
        flops = self._tokens / self._seconds * self.flops_per_token
        if flops > self.peak:  # something else was running when it was measured
            self.peak = max(self.peak, fma_peak(0.2))
        return [f"{flops / self.peak:.0%} of peak"]

    def on_end(self, trainer: Training, result: TrainResult) -> None:
        if self._bar is not None:
            self._bar.close()
        if result.interrupted is not None:
            name = signal.Signals(result.interrupted).name
            self._print(
                f"{name}: stopped after step {result.steps} and saved {result.checkpoint}\n"
                f"go on with: {resume_command(result.folder, trainer.options.COMMAND)}"
            )
            return
        run = Run(result.folder)
        model = next((path for path in (run.best_path, run.adapter_path) if path.exists()), result.checkpoint)
        self._print(self._summary(trainer, result))
        self._print(f"try it: {trainer.options.try_it.format(shlex.quote(str(model)))}")

    def _summary(self, trainer: Training, result: TrainResult) -> str:
        n, own = result.steps, result.steps - result.first_step
        done = f"{n:,} steps in {_duration(result.seconds)}"
        if result.first_step:
            done = f"{n:,} steps, the last {own:,} of them in {_duration(result.seconds)}"
        if self._seconds:
            done += ", " + ", ".join([f"{_short(self._tokens / self._seconds)} tok/s", *self._share_of_peak()])
        lines = [f"done: {done}"]
        if n < trainer.total_steps:
            lines[0] += f" (no lower validation loss in {trainer.options.patience} evaluations)"
        if result.best_validation_loss is not None:
            at = "" if result.best_step is None else f" at step {result.best_step:,}"
            lines.append(f"best: validation loss {result.best_validation_loss:.4f}{at}")
        if result.best_step is not None and result.best_step < n:
            lines[-1] += f"; it rose for {n - result.best_step:,} steps after that"
            if n > trainer.batches.steps(1, trainer.options.grad_accumulation):  # else nothing was seen twice
                lines[-1] += ", as the model learned the training data by heart: use fewer steps or more data"
        return "\n".join(lines)

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self.output.put(text, self._bar.write)
        else:
            self.output.put(text)


def _short(n: float) -> str:
    """
    >>> [_short(n) for n in (913.2, 9_870, 63_044, 256_000, 1_240_000)]
    ['913', '9.9k', '63k', '256k', '1.2M']
    """
    for unit in ("", "k", "M"):
        if n < 999.5:
            return f"{n:.1f}{unit}" if unit and n < 9.95 else f"{n:.0f}{unit}"
        n /= 1000
    return f"{n:.0f}G"


def clock(seconds: float) -> str:
    """
    >>> [clock(n) for n in (4.9, 605, 3_900, 126_000, 2_000_000)]
    ['0:05', '10:05', '1h05', '35h', '23d']
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    hours = minutes // 60
    if hours < 10:
        return f"{hours}h{minutes % 60:02d}"
    return f"{hours}h" if hours < 100 else f"{hours // 24}d"


def _figures(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """An objective's own figures in a step's metrics, or in its evaluation, by their names in words."""
    shared = (*METRICS, *RESOURCES, "sample", "validation_loss", BITS_PER_BYTE)
    own = {name: value for name, value in metrics.items() if name not in shared}
    chosen = [name for name in own if name.startswith("validation_") == bool(prefix)]
    return {name.removeprefix(prefix).replace("_", " "): own[name] for name in chosen}


def _on_the_cpu(job: Announced, peak: float) -> dict[str, str]:
    needs = job.estimate
    narrow = job.options.compute_dtype == "bfloat16"
    speedup = bfloat16_speedup() if narrow else 1.0
    products_too = f", and {speedup:.1f} times that in products of bfloat16" if narrow else ""
    seconds = needs.seconds(job.total_steps - job.n_done, peak, speedup)
    return {
        "machine": f"{num_threads()} threads, {isa()}, {peak / 1e9:.0f} GFLOP/s",
        "memory": f"about {in_bytes(needs.total_bytes)}: {_parts(needs)}{_scarce(needs)}",
        "time": f"about {_duration(seconds)} (assuming {SHARE_OF_PEAK:.0%} of peak FLOP/s{products_too})",
    }


def _on_the_gpu(job: Announced) -> dict[str, str]:
    needs, gpu = job.estimate, cuda.describe()
    return {
        "machine": f"{gpu['name']}, compute capability {gpu['compute_capability']}",
        "memory": f"about {in_bytes(needs.computing_bytes)} of the GPU's {in_bytes(gpu['total_bytes'])}: "
        f"{_parts(needs)}{_scarce(needs)}; {in_bytes(needs.total_bytes)} of the process",
    }


def _parts(needs: Estimate) -> str:
    return (
        f"{in_bytes(needs.state_bytes)} weights, gradients and moments, "
        f"{in_bytes(needs.activation_bytes)} activations, {in_bytes(needs.other_bytes)} the rest"
    )


def _scarce(needs: Estimate) -> str:
    free = needs.free_bytes
    return f", MORE THAN THE {in_bytes(free)} THAT ARE FREE" if free and needs.wanted_bytes > free else ""


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
