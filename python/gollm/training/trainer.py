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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gollm import tokenizers
from gollm.data import DataSource, Sampler, TokenDataset, evaluation_batches, open_source, prepare
from gollm.errors import ConfigError, TrainingError
from gollm.inference.engine import pieces
from gollm.kernels import Array
from gollm.language_model import LanguageModel
from gollm.model.decoder import Decoder
from gollm.nn.optimizer import SGD, AdamW, Optimizer
from gollm.nn.plan import Plan
from gollm.nn.schedule import learning_rate
from gollm.nn.tensor import Tensor
from gollm.tokenizers import Tokenizer
from gollm.training.callbacks import Callback, TrainResult
from gollm.training.interruption import Interruption, Stopped
from gollm.training.objective import Batches, NextToken, Objective, evaluate, forward_backward
from gollm.training.options import TrainOptions
from gollm.training.resume import resumed_options
from gollm.training.run_folder import RunFolder
from gollm.training.state import RunState, read_newest_state, write_state

MANY_TOKENS = 1 << 20  # of the training data, searched for the token that ends a text


class Trainer:
    """Trains a decoder on tokens.

    >>> Trainer(model, tokenizer, TrainOptions(steps=100, out="runs/mine")).fit(data)     # doctest: +SKIP

    Of the options, those about the model and the tokenizer are already decided by what is given here. `objective` says
    what the loss is (default: the next token's cross-entropy), `batches` where micro-batches come from (default: a
    Sampler of the training data).
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        options: TrainOptions,
        callbacks: Sequence[Callback] = (),
        *,
        objective: Objective | None = None,
        batches: Batches | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.options = options if options.resume is None else resumed_options(options)
        self.callbacks = list(callbacks)
        self.objective: Objective = NextToken() if objective is None else objective
        self._batches = batches
        self.state = RunState()
        self.total_steps = 0
        self.interruption = Interruption()
        self.optimizer: Optimizer
        self.data: TokenDataset
        self.batches: Batches
        self.forward_backward: Plan[list[Tensor]]  # the recorded part of a step
        self.losses: Array  # (k, B, T) float32: of each target in the last step
        self.validation: list[tuple[Array, Array]] = []  # (inputs, targets) of each evaluation batch

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self.state.step

    @property
    def best_validation_loss(self) -> float | None:
        """The lowest so far, or None before the first evaluation."""
        return self.state.best_validation_loss

    @property
    def tokens_per_step(self) -> int:
        """How many tokens one step predicts."""
        return self.options.batch_size * self.options.grad_accumulation * self.model.config.context

    @property
    def finished(self) -> bool:
        """Whether all steps are done, the last one's evaluation and sample included."""
        return self.step >= self.total_steps and self.state.unfinished is None

    def fit(self, data: TokenDataset | DataSource | str | Path, folder: RunFolder | None = None) -> TrainResult:
        """Trains until the last step, and writes the run folder (the options' unless it is given) as it goes.

        SIGINT and SIGTERM (in the main thread) let the running step finish, save, and return with `interrupted` set.
        An evaluation or sample that they break off is made when the run goes on.
        Raises TrainingError for a loss that is not finite or a folder that cannot be used, CheckpointError for a
        checkpoint that cannot be written or resumed from, DataError for data that does not serve."""
        options, started = self.options, time.perf_counter()
        with folder or RunFolder.claim(options, "run") as folder, self.interruption as interruption:
            self._prepare(data)
            prompt = self._prompt()
            metrics = self._resume(folder)
            state = self.state
            for callback in self.callbacks:
                callback.on_start(self)

            while not self.finished and interruption.signal is None:
                if state.unfinished is None:
                    # One optimiser step.
                    clock, step = time.perf_counter(), self.step + 1
                    inputs, targets, denominator = self._next_batches(step)
                    loss = sum(part.item() for part in self.forward_backward(inputs, targets, denominator))
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
                        "tokens_per_second": round(self.tokens_per_step / seconds, 1),
                    }
                # What follows a step. A signal breaks off evaluating and sampling, and leaves the step unfinished.
                metrics = dict(state.unfinished)
                try:
                    if self.validation and self._due(options.eval_every):
                        metrics["validation_loss"] = self.evaluate()
                        self._refuse_divergence(self.step, "validation loss", metrics["validation_loss"])
                    if options.sample_tokens and self._due(options.resolved_sample_every):
                        metrics["sample"] = self.sample(prompt)
                except Stopped:
                    break
                folder.write_metrics(metrics)
                if state.finish(metrics.get("validation_loss")):
                    LanguageModel(self.model, self.tokenizer).save(folder.best_path)
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
                seconds=time.perf_counter() - started,
            )
            for callback in self.callbacks:
                callback.on_end(self, result)
            return result

    # -- before the first step

    def _prepare(self, data: TokenDataset | DataSource | str | Path) -> None:
        """Data, batches, optimiser, and the plan of the forward and backward passes."""
        options, model = self.options, self.model
        context = model.config.context
        if not isinstance(data, TokenDataset):
            source = data if isinstance(data, DataSource) else open_source(data)
            data = prepare(
                source, self.tokenizer, validation_fraction=options.validation_fraction, cache_dir=options.cache_dir
            )
        self.data = data
        self.batches = self._batches or sampler_of(data, options, context)
        self.total_steps = options.total_steps(self.batches)
        self.validation = (
            list(evaluation_batches(data.validation, options.batch_size, context, options.eval_batches))
            if len(data.validation) > context
            else []
        )
        self.optimizer = make_optimizer(model, options)
        configure(model, options)
        self._counters = np.zeros(options.grad_accumulation, np.int64)
        self.losses = np.empty((options.grad_accumulation, options.batch_size, context), np.float32)
        self.forward_backward = Plan(
            partial(forward_backward, model, self._counters, objective=self.objective, losses=self.losses)
        )

    def _resume(self, folder: RunFolder) -> dict[str, Any]:
        """Puts the state of a resumed run into place; returns the metrics of the last step that was done."""
        self.state = RunState()
        if self.options.resume is not None:
            if folder.checkpoints():
                self.state = read_newest_state(folder, self.model, self.optimizer, self.batches, self.data.validation)
            else:
                folder.refuse_lost()  # killed before its first: it starts over
        record = self.options.resolved(self.model.config, self.total_steps)
        folder.write_config(record.replace(out=str(folder.path), resume=None).to_dict())
        if not folder.tokenizer_path.exists():
            tokenizers.save(self.tokenizer, folder.tokenizer_path)
        return folder.start_metrics(self.step - (self.state.unfinished is not None))

    def _prompt(self) -> Array:
        """The tokens that samples continue, framed as the data's documents are.

        Without a prompt: what comes before a document's first token; the data's first token where no document of the
        training data has that before it."""
        context, framing = self.model.config.context, self.tokenizer.framing
        ids = np.array([*framing.begin, *self.tokenizer.encode(self.options.sample_prompt)], np.int32)
        if len(ids) > context:
            raise ConfigError(
                f"--sample-prompt has {len(ids)} tokens, more than the model's context ({context}); shorten it"
            )
        if len(ids):
            return ids
        # A single long text without a begin has taught the model nothing of its end.
        known = bool(framing.end) and framing.end[0] in self.data.train[:MANY_TOKENS]
        return np.array(framing.start, np.int32) if known else self.data.train[:1]

    # -- parts of the loop

    def _next_batches(self, step: int) -> tuple[Array, Array, Array]:
        """A step's inputs and targets, (k, B, T), and how many losses its mean is over, (1,) float64.

        Sets the dropout counters to the numbers of its micro-batches."""
        k, context = self.options.grad_accumulation, self.model.config.context
        inputs, targets = np.empty((2, k, self.options.batch_size, context), np.int32)
        for i in range(k):
            self.batches.next_batch((inputs[i], targets[i]))
            self._counters[i] = (step - 1) * k + i
        return inputs, targets, np.array([max(1, self.objective.count(targets))], np.float64)

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
        """The mean loss over the fixed validation batches."""
        with self.forward_backward.lend_memory():
            return evaluate(self.objective, self.model, self.validation, self.interruption.check)

    def sample(self, prompt: Array) -> str:
        """The text that the model now makes of some tokens, from the same draws each time."""
        options = self.options
        bare = LanguageModel(self.model)  # no token stops a sample
        with self.forward_backward.lend_memory():
            text_decoder = self.tokenizer.decoder(after=prompt.tolist())
            text = options.sample_prompt
            for piece in pieces(bare, prompt, max_new_tokens=options.sample_tokens, temperature=0.8, seed=options.seed):
                text += "".join(map(text_decoder.push, piece.tokens))
                self.interruption.check()
            return text + text_decoder.finish()

    def _save_unless_saved(self, folder: RunFolder) -> None:
        if not folder.checkpoint_path(self.step).exists():
            self._save(folder)

    def _save(self, folder: RunFolder) -> None:
        folder.sync_metrics()
        path = folder.checkpoint_path(self.step)
        write_state(path, self.model, self.tokenizer, self.optimizer, self.batches, self.data.validation, self.state)
        folder.note_checkpoint(path)
        folder.keep_newest(self.options.keep_checkpoints)
        for callback in self.callbacks:
            callback.on_checkpoint(self, path)


def sampler_of(data: TokenDataset, options: TrainOptions, context: int) -> Sampler:
    """The windows of the training data, in the order that the seed gives."""
    return Sampler(data.train, batch_size=options.batch_size, context=context, seed=options.seed)


def configure(model: Decoder, options: TrainOptions) -> None:
    """How the model computes in training."""
    model.dropout.seed = options.seed
    model.recompute, model.activation_dtype = options.recompute or "none", options.activation_dtype
    model.compute_dtype = options.compute_dtype


def make_optimizer(model: Decoder, options: TrainOptions) -> Optimizer:
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
    )
