"""The training loop.

A step is: gradients of `grad_accumulation` micro-batches added up, the mean over all of their tokens; clipping; one
optimiser update. The kernel calls of the forward and backward passes are recorded in the first step and replayed from
then on (gollm.nn.plan).
What decides step s + 1 is all in the checkpoint after step s (gollm.training.state), which is why a resumed run ends
with the same bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gollm import tokenizers
from gollm.data import DataSource, TokenDataset, open_source, prepare
from gollm.errors import ConfigError, TrainingError
from gollm.inference.engine import pieces
from gollm.kernels import Array, Kernels
from gollm.language_model import LanguageModel
from gollm.model.decoder import Decoder
from gollm.nn import dtypes
from gollm.nn.optimizer import SGD, AdamW, Optimizer
from gollm.nn.plan import Plan
from gollm.nn.schedule import learning_rate
from gollm.nn.tensor import Tensor
from gollm.system.memory import resident_bytes
from gollm.tokenizers import Tokenizer
from gollm.training.callbacks import Callback, TrainResult
from gollm.training.interruption import Interruption, Stopped
from gollm.training.objective import Batches, NextToken, Objective, evaluate, forward_backward
from gollm.training.options import LoopOptions, TrainOptions
from gollm.training.parameter_statistics import ParameterStatistics
from gollm.training.resume import resumed_options
from gollm.training.run import Run
from gollm.training.run_folder import RunFolder
from gollm.training.state import BITS_PER_BYTE, RunState, read_newest_state, write_state
from gollm.training.training_data import TrainingData, of_tokens


class Trainer:
    """Trains the parameters of a decoder that are not frozen.

    >>> Trainer(model, tokenizer, TrainOptions(steps=100, out="runs/mine")).fit(data)     # doctest: +SKIP

    Of the options, those about the model, its device and dtype, and the tokenizer are already decided by what is given
    here. `objective` says what the loss is (default: the next token's cross-entropy).
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        options: LoopOptions,
        callbacks: Sequence[Callback] = (),
        *,
        objective: Objective | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.options = options if options.resume is None else resumed_options(options)
        self.callbacks = list(callbacks)
        if self.options.statistics_every:
            self.callbacks.append(ParameterStatistics(self.options.statistics_every))
        self.objective: Objective = NextToken() if objective is None else objective
        self.state = RunState()
        self.folder: Run  # that fit() writes to
        self.total_steps = 0
        self.interruption = Interruption()
        self.optimizer: Optimizer
        self.data: TrainingData
        self.batches: Batches
        self.forward_backward: Plan[list[Tensor]]  # the recorded part of a step
        self.validation_figures: dict[str, float] = {}  # the objective's own, of the last evaluation
        # (k, ...) float32: what the objective says of each item of the last step, such as its loss; where the model is
        self.each: Array

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self.state.step

    @property
    def best_validation_loss(self) -> float | None:
        """The lowest so far, or None before the first evaluation."""
        return self.state.best_validation_loss

    @property
    def finished(self) -> bool:
        """Whether all steps are done or patience is at an end, the last step's evaluation and sample included."""
        return self.state.unfinished is None and (self.step >= self.total_steps or self._out_of_patience)

    @property
    def _out_of_patience(self) -> bool:
        patience, best = self.options.patience, self.state.best_step
        return patience is not None and best is not None and self.step - best >= patience * self.options.eval_every

    def fit(
        self, data: TrainingData | TokenDataset | DataSource | str | Path, folder: RunFolder | None = None
    ) -> TrainResult:
        """Trains until the last step, and writes the run folder (the options' unless it is given) as it goes.

        SIGINT and SIGTERM (in the main thread) let the running step finish, save, and return with `interrupted` set.
        An evaluation or sample that they break off is made when the run goes on.
        Raises TrainingError for a loss that is not finite or a folder that cannot be used, CheckpointError for a
        checkpoint that cannot be written or resumed from, DataError for data that does not serve."""
        options, started = self.options, time.perf_counter()
        with folder or RunFolder.claim(options, "run") as folder, self.interruption as interruption:
            self.folder = folder
            self._prepare(data)
            metrics = self._resume(folder)
            state, first_step = self.state, self.step
            for callback in self.callbacks:
                callback.on_start(self)

            while not self.finished and interruption.signal is None:
                if state.unfinished is None:
                    # One optimiser step.
                    clock, step = time.perf_counter(), self.step + 1
                    counters, denominator, batches = self._next_batches(step)
                    loss = sum(part.item() for part in self.forward_backward(counters, denominator, *batches))
                    self._refuse_divergence(step, "loss", loss)
                    lr = self.learning_rate(step)
                    norm = self.optimizer.step(lr)  # clips the gradient
                    self._refuse_divergence(step, "gradient's norm", norm)
                    seconds = time.perf_counter() - clock
                    state.step = step
                    state.unfinished = {
                        "step": step,
                        "loss": loss,
                        "grad_norm": norm,
                        "lr": lr,
                        "ms": round(seconds * 1e3, 3),
                        "tokens_per_second": round(batches[0].size / seconds, 1),
                        "memory_bytes": resident_bytes()[0],
                        **self.objective.metrics(batches, self.model.parameters.kernels.to_host(self.each)),
                    }
                # What follows a step. A signal breaks off evaluating and sampling, and leaves the step unfinished.
                metrics = dict(state.unfinished)
                try:
                    if self.data.validation and self._due(options.eval_every):
                        metrics["validation_loss"] = self.evaluate()
                        if per_target := self.data.bytes_per_target:
                            metrics[BITS_PER_BYTE] = metrics["validation_loss"] / math.log(2) / per_target
                        metrics |= {f"validation_{name}": value for name, value in self.validation_figures.items()}
                        self._refuse_divergence(self.step, "validation loss", metrics["validation_loss"])
                    if options.sample_tokens and len(self.data.prompt) and self._due(options.resolved_sample_every):
                        metrics["sample"] = self.sample()
                except Stopped:
                    break
                folder.write_metrics(metrics)
                if state.finish(metrics.get("validation_loss")):
                    self._save_best(folder)
                if self._due(options.checkpoint_every):
                    self._save(folder)
                try:
                    for callback in self.callbacks:
                        callback.on_step(self, metrics)
                except Exception:  # of a program, or because nobody reads what is printed: the step is not lost
                    self._save_unless_saved(folder)
                    raise

            self._save_unless_saved(folder)
            folder.keep_newest(options.keep_checkpoints)  # a kill may have come between saving the last and this
            result = TrainResult(
                folder=folder.path,
                steps=self.step,
                loss=metrics.get("loss"),
                validation_loss=state.validation_loss,
                best_validation_loss=self.best_validation_loss,
                checkpoint=folder.checkpoint_path(self.step),
                interrupted=None if self.finished else interruption.signal,
                best_step=state.best_step,
                first_step=first_step,
                seconds=time.perf_counter() - started,
            )
            for callback in self.callbacks:
                callback.on_end(self, result)
            return result

    # -- before the first step

    def _prepare(self, data: TrainingData | TokenDataset | DataSource | str | Path) -> None:
        """Data, batches, optimiser, and the plan of the forward and backward passes."""
        options, model = self.options, self.model
        if isinstance(data, str | Path):
            data = open_source(data)
        if isinstance(data, DataSource):
            assert isinstance(options, TrainOptions)
            data = prepare(
                data,
                self.tokenizer,
                validation_fraction=options.validation_fraction,
                validation_split=options.validation_split,
                cache_dir=options.cache_dir,
            )
        if isinstance(data, TokenDataset):
            data = of_tokens(data, self.tokenizer, options, model.config.context)
        if options.patience is not None and not data.validation:
            raise ConfigError(
                "--patience needs a validation loss, and there is too little validation text; leave it out, or give "
                "--validation-data"
            )
        self.data = data
        self.batches = data.batches
        self.total_steps = options.total_steps(self.batches)
        self.optimizer = make_optimizer(model, options)
        configure(model, options)
        self.forward_backward = Plan(self._forward_backward, model.parameters.kernels)

    def _forward_backward(self, counters: Array, denominator: Array, *batches: Array) -> list[Tensor]:
        shape = self.objective.each_shape([array[0] for array in batches])
        self.each = self.model.parameters.kernels.from_host(np.empty((counters.shape[0], *shape), np.float32))
        return forward_backward(
            self.model,
            counters,
            *batches,
            denominator=denominator,
            objective=self.objective,
            each=self.each,
        )

    def _resume(self, folder: RunFolder) -> dict[str, Any]:
        """Puts the state of a resumed run into place; returns the metrics of the last step that was done."""
        self.state = RunState()
        if self.options.resume is not None:
            if folder.checkpoints():
                self.state = read_newest_state(folder, self.model, self.optimizer, self.data)
            else:
                folder.refuse_lost()  # killed before its first: it starts over
        record = self.options.resolved(self.model.config, self.total_steps, self.tokenizer.kind)
        folder.write_config(record.replace(out=str(folder.path), resume=None).to_dict())
        if not folder.tokenizer_path.exists():
            tokenizers.save(self.tokenizer, folder.tokenizer_path)
        return folder.start_metrics(self.step - (self.state.unfinished is not None))

    # -- parts of the loop

    def _next_batches(self, step: int) -> tuple[Array, Array, tuple[Array, ...]]:
        """The numbers of a step's micro-batches (k,), for the dropout; how many losses the step's mean is over, (1,)
        float64; and its batches."""
        k = self.options.grad_accumulation
        counters, batches = np.arange((step - 1) * k, step * k, dtype=np.int64), self.batches.next_step(k)
        return counters, np.array([max(1, self.objective.count(batches))], np.float64), batches

    def learning_rate(self, step: int) -> float:
        """Of step 1 ... total_steps."""
        options = self.options
        return learning_rate(
            step,
            schedule=options.schedule,
            peak=options.lr,
            minimum=options.resolved_min_lr,
            warmup_steps=options.resolved_warmup_steps(self.total_steps),
            total_steps=self.total_steps,
        )

    def _due(self, every: int) -> bool:
        """Every so many steps (0: never), and after the last one."""
        return self.step == self.total_steps or (every > 0 and self.step % every == 0)

    def _refuse_divergence(self, step: int, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} at step {step} is {value}: training has diverged; the checkpoints are untouched. "
                f"Try a lower --lr (now {self.options.lr:g}), more --warmup-steps, or a lower --max-grad-norm"
            )

    def evaluate(self) -> float:
        """The mean loss over the fixed validation batches. The objective's other figures go to validation_figures."""
        with self.forward_backward.lend_memory():
            figures = evaluate(self.objective, self.model, self.data.validation, self.interruption.check)
        loss = figures.pop("loss")
        self.validation_figures = figures
        return loss

    def sample(self) -> str:
        """The text that the model now makes of the data's prompt, from the same draws each time."""
        options, data = self.options, self.data
        bare = LanguageModel(self.model, defaults=data.defaults)  # without defaults no token stops a sample
        with self.forward_backward.lend_memory():
            text_decoder = self.tokenizer.decoder(after=data.prompt.tolist())
            text, n = data.shown, options.sample_tokens
            for piece in pieces(bare, data.prompt, max_new_tokens=n, temperature=0.8, seed=options.seed):
                text += "".join(map(text_decoder.push, piece.tokens))
                self.interruption.check()
            return text + text_decoder.finish()

    def _save_best(self, folder: RunFolder) -> None:
        self.data.save(LanguageModel(self.model, self.tokenizer, self.data.defaults), folder)

    def _save_unless_saved(self, folder: RunFolder) -> None:
        if not folder.checkpoint_path(self.step).exists():
            self._save(folder)

    def _save(self, folder: RunFolder) -> None:
        folder.sync_metrics()
        path = folder.checkpoint_path(self.step)
        write_state(path, self.model, self.tokenizer, self.optimizer, self.data, self.state)
        folder.note_checkpoint(path)
        if self.data.each_checkpoint and not self.data.validation:
            self._save_best(folder)
        folder.keep_newest(self.options.keep_checkpoints)
        for callback in self.callbacks:
            callback.on_checkpoint(self, path)


def configure(model: Decoder, options: LoopOptions) -> None:
    """How the model computes in training."""
    model.dropout.seed = options.seed
    model.recompute, model.activation_dtype = options.recompute or "none", options.activation_dtype
    model.compute_dtype = options.compute_dtype


def move(model: Decoder, kernels: Kernels, options: LoopOptions) -> Decoder:
    """The model on the device where it is trained, as the options ask for it."""
    return model.to(kernels, getattr(dtypes, options.dtype), masters=options.rounding == "nearest")


def make_optimizer(model: Decoder, options: LoopOptions) -> Optimizer:
    """The optimiser that the options ask for, its moments zero."""
    if options.optimizer == "sgd":
        return SGD(
            model.parameters,
            momentum=options.beta1,
            weight_decay=options.weight_decay,
            max_grad_norm=options.max_grad_norm,
        )
    return AdamW(
        model.parameters,
        beta1=options.beta1,
        beta2=options.beta2,
        eps=options.eps,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        seed=options.seed,
    )
