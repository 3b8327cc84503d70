"""The training state in a checkpoint: all that decides the next step, so that a resumed run ends with the same bytes.

    training: {"step", "sampler", "best_validation_loss", "best_step", "validation", "frozen"}
    training tensors: the optimiser's moments and step count

The weights are those that are trained: of a run with adapters, the adapters'; "frozen" names the content of the others
then. "validation" names the validation data's content; checkpoints of gollm 0.1 lack it, and "best_step".

Where a signal broke off the evaluation or sample after the step, "unfinished" holds the step's metrics, whose line in
metrics.jsonl is still to be written.
The learning rate and the dropout masks are functions of the step number and of the options in config.yaml.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gollm.errors import CheckpointError, ConfigError, DataError, TrainingError, warn
from gollm.formats.golm.checkpoint import open_checkpoint, write_checkpoint
from gollm.formats.golm.model import copy_weights
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn.optimizer import Optimizer
from gollm.system.strict_json import shorten
from gollm.tokenizers import Tokenizer
from gollm.training.run_folder import RunFolder
from gollm.training.training_data import TrainingData

METRICS = ("step", "loss", "grad_norm", "lr", "ms", "tokens_per_second")  # of every step; an objective has more
BITS_PER_BYTE = "validation_bits_per_byte"  # beside "validation_loss", where the data is text
RESOURCES = ("memory_bytes",)  # of every step, too, but for those of older runs: the process' resident memory


@dataclass
class RunState:
    """How far a run has come."""

    step: int = 0
    validation_loss: float | None = None  # of the last evaluation since the run was started or resumed
    best_validation_loss: float | None = None
    best_step: int | None = None  # that has it
    unfinished: dict[str, Any] | None = None  # metrics of a step whose evaluation or sample is still to be made

    def finish(self, validation_loss: float | None) -> bool:
        """The step is over; returns whether its validation loss is the lowest so far."""
        self.unfinished = None
        if validation_loss is None:
            return False
        self.validation_loss = validation_loss
        if self.best_validation_loss is not None and validation_loss >= self.best_validation_loss:
            return False
        self.best_validation_loss, self.best_step = validation_loss, self.step
        return True


def write_state(
    path: Path,
    model: Decoder,
    tokenizer: Tokenizer,
    optimizer: Optimizer,
    data: TrainingData,
    state: RunState,
) -> None:
    """Writes a checkpoint that training can go on from.

    Raises CheckpointError, also for weights that are not finite."""
    if not model.parameters.all_finite():
        raise CheckpointError(
            f"the weights after step {state.step} are not finite, so {path.name} was not written: training has "
            "diverged. Older checkpoints are untouched; try a lower --lr in a new run"
        )
    trained = [name for name in model.parameters.order if model.parameters[name].requires_grad]
    write_checkpoint(
        path,
        config=model.config.to_dict(),
        generation=None if data.defaults is None else data.defaults.to_dict(),
        tensors={name: model.parameters[name].data for name in trained},
        order=trained,
        tokenizer_state=tokenizer.to_state(),
        training={
            "step": state.step,
            "sampler": data.batches.state(),
            "best_validation_loss": state.best_validation_loss,
            "best_step": state.best_step,
            "validation": data.fingerprint,
            **({} if data.frozen is None else {"frozen": data.frozen.fingerprint}),
            **({} if state.unfinished is None else {"unfinished": state.unfinished}),
        },
        training_tensors={name: optimizer.kernels.to_host(array) for name, array in optimizer.state().items()},
    )


def read_state(path: Path, model: Decoder, optimizer: Optimizer, data: TrainingData) -> RunState:
    """Puts a checkpoint's weights and state into place.

    Raises CheckpointError for a file that does not fit, TrainingError for frozen weights that are not the run's, and
    DataError for such data."""
    with open_checkpoint(path) as file:
        saved = file.training
        if saved is None:
            raise CheckpointError(f"{path}: it has no training state, so training cannot go on from it")
        try:
            same = ModelConfig.from_dict(file.config) == model.config  # an older file lacks newer fields
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from None
        if not same:
            raise CheckpointError(f"{path}: its model is not the one that the run's options describe")
        step, best, position = (saved.get(key) for key in ("step", "best_validation_loss", "sampler"))
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise CheckpointError(f"{path}: its step is {shorten(step)}, which is no count of steps")
        if best is not None and not (isinstance(best, (int, float)) and math.isfinite(best)):
            raise CheckpointError(f"{path}: its best validation loss is {shorten(best)}, which is no number")
        best_step = saved.get("best_step")
        if best_step is not None and not (type(best_step) is int and 0 < best_step <= step):
            raise CheckpointError(f"{path}: its best step is {shorten(best_step)}, which is none of {step} steps")
        unfinished = saved.get("unfinished")
        if unfinished is not None and not _are_metrics(unfinished, step):
            raise CheckpointError(f"{path}: its unfinished step is {shorten(unfinished)}, not metrics of step {step}")
        if not isinstance(position, dict):
            raise CheckpointError(f"{path}: its training state has no position in the data")
        if data.frozen is not None and saved.get("frozen", data.frozen.fingerprint) != data.frozen.fingerprint:
            raise TrainingError(
                f"the weights of {data.frozen.model} are not those that the interrupted run has trained its adapters "
                "for; resume with the same model in its place, or start a new run"
            )
        data.batches.restore(position)
        if saved.get("validation", data.fingerprint) != data.fingerprint:
            raise DataError(
                "the validation data is not what the interrupted run had, so its losses could not be compared; resume "
                "with the same data, or start a new run"
            )
        copy_weights(file, model)
        for name, array in optimizer.state().items():
            if name not in file.training_tensors:
                raise CheckpointError(f"{path}: the optimiser's state '{name}' is missing")
            with optimizer.kernels.filling(array) as values:
                file.copy(file.training_tensors[name], values)
    if unfinished is not None:
        unfinished = {name: unfinished[name] for name in (*METRICS, *sorted(unfinished.keys() - set(METRICS)))}
    return RunState(step, best_validation_loss=best, best_step=best_step, unfinished=unfinished)


def _are_metrics(values: object, step: int) -> bool:
    return (
        isinstance(values, dict)
        and values.keys() >= set(METRICS)
        and all(type(value) in (int, float) for value in values.values())
        and values["step"] == step > 0
    )


def read_newest_state(folder: RunFolder, model: Decoder, optimizer: Optimizer, data: TrainingData) -> RunState:
    """read_state() of the newest checkpoint. One that is damaged is set aside with a warning where an older one
    serves; else the error is the newest's, and all stay as they are."""
    failures: dict[Path, CheckpointError] = {}
    for path in reversed(folder.checkpoints().values()):
        try:
            state = read_state(path, model, optimizer, data)
        except CheckpointError as failure:
            failures[path] = failure
            continue
        for damaged, reason in failures.items():
            aside = folder.set_aside(damaged)
            warn(f"{reason}; it is now {aside.name}, and training goes on from {path.name}")
        return state
    raise next(iter(failures.values()))
