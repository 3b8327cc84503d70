"""What `gollm train` prints: a table before it starts, a line every few steps, a progress bar on a terminal."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from gollm import cuda
from gollm.nn import products
from gollm.system.machine import fma_peak, isa, num_threads, product_rate
from gollm.system.memory import available_bytes
from gollm.training.callbacks import Callback, Training, TrainResult
from gollm.training.estimate import SHARE_OF_PEAK, Estimate, flops_per_token
from gollm.training.options import LoopOptions
from gollm.training.run import Run, resume_command
from gollm.training.state import METRICS


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
    """Prints to standard output; the bar goes to standard error where that is a terminal."""

    def __init__(self, on_gpu: bool = False) -> None:
        self.output = Output()
        self.peak = None if on_gpu else fma_peak(0.2)  # FLOP/s; a GPU's is not measured
        self.flops_per_token = 0.0
        self._bar: Any = None

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
        if trainer.step:
            self._print(f"{'resumed':<10} after step {trainer.step:,} of {trainer.total_steps:,}")
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=trainer.total_steps, initial=trainer.step, unit="step", dynamic_ncols=True, leave=False
            )

    def on_step(self, trainer: Training, metrics: dict[str, Any]) -> None:
        step = metrics["step"]
        if self._bar is not None:
            self._bar.update(1)
            self._bar.set_postfix(loss=f"{metrics['loss']:.4f}", refresh=False)
        if step in (1, trainer.total_steps) or step % trainer.options.log_every == 0:
            self._print(self.line(metrics, trainer.total_steps))
        if "validation_loss" in metrics:
            best = " (the best so far)" if metrics["validation_loss"] == trainer.best_validation_loss else ""
            own = "".join(f", {said} {value:.4f}" for said, value in _figures(metrics, "validation_").items())
            self._print(f"validation loss {metrics['validation_loss']:.4f}{own}{best}")
        if "sample" in metrics:
            self._print(f"--- a sample after step {step}\n{metrics['sample']}\n---")

    def line(self, metrics: dict[str, Any], total_steps: int) -> str:
        """step    1/1000 | loss 4.3720 | norm 2.31 | lr 1.00e-04 | 85.3 ms | 41.2% of peak | 3,000 tok/s"""
        rate, share = metrics["tokens_per_second"], ""
        if self.peak is not None:
            if rate * self.flops_per_token > self.peak:  # something else was running when it was measured
                self.peak = max(self.peak, fma_peak(0.2))
            share = f"{rate * self.flops_per_token / self.peak:.1%} of peak | "
        step = f"{metrics['step']:>{len(str(total_steps))}}/{total_steps}"
        own = "".join(f"{said} {value:.4f} | " for said, value in _figures(metrics).items())
        return (
            f"step {step} | loss {metrics['loss']:.4f} | {own}norm {metrics['grad_norm']:.2f} | "
            f"lr {metrics['lr']:.2e} | {metrics['ms']:.1f} ms | {share}{rate:,.0f} tok/s"
        )

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
        lowest = result.best_validation_loss
        loss = "" if lowest is None else f", best validation loss {lowest:.4f}"
        self._print(
            f"done: {result.steps} steps in {_duration(result.seconds)}{loss}\n"
            f"try it: {trainer.options.try_it.format(shlex.quote(str(model)))}"
        )

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self.output.put(text, self._bar.write)
        else:
            self.output.put(text)


def _figures(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """An objective's own figures in a step's metrics, or in its evaluation, by their names in words."""
    own = {name: value for name, value in metrics.items() if name not in METRICS and name != "sample"}
    chosen = [name for name in own if name.startswith("validation_") == bool(prefix) and name != "validation_loss"]
    return {name.removeprefix(prefix).replace("_", " "): own[name] for name in chosen}


def _on_the_cpu(job: Announced, peak: float) -> dict[str, str]:
    needs = job.estimate
    narrow = job.options.compute_dtype == "bfloat16"
    speedup = bfloat16_speedup() if narrow else 1.0
    products_too = f", and {speedup:.1f} times that in products of bfloat16" if narrow else ""
    seconds = needs.seconds(job.total_steps - job.n_done, peak, speedup)
    scarce = _scarce(needs.new_bytes, available_bytes())
    return {
        "machine": f"{num_threads()} threads, {isa()}, {peak / 1e9:.0f} GFLOP/s",
        "memory": f"about {_bytes(needs.total_bytes)}: {_parts(needs)}{scarce}",
        "time": f"about {_duration(seconds)} (assuming {SHARE_OF_PEAK:.0%} of peak FLOP/s{products_too})",
    }


def _on_the_gpu(job: Announced) -> dict[str, str]:
    needs, gpu = job.estimate, cuda.describe()
    scarce = _scarce(needs.computing_bytes, gpu["free_bytes"])
    return {
        "machine": f"{gpu['name']}, compute capability {gpu['compute_capability']}",
        "memory": f"about {_bytes(needs.computing_bytes)} of the GPU's {_bytes(gpu['total_bytes'])}: "
        f"{_parts(needs)}{scarce}; {_bytes(needs.total_bytes)} of the process",
    }


def _parts(needs: Estimate) -> str:
    return (
        f"{_bytes(needs.state_bytes)} weights, gradients and moments, {_bytes(needs.activation_bytes)} activations, "
        f"{_bytes(needs.other_bytes)} the rest"
    )


def _scarce(needed: int, free: int | None) -> str:
    if not free or needed <= free:
        return ""
    return (
        f", MORE THAN THE {_bytes(free)} THAT ARE FREE: use a smaller --batch-size or model, "
        "--recompute block or --activation-dtype bfloat16"
    )


def _bytes(n: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:.2f} GB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
