"""The whole job of `gollm finetune`: model, data, training, from options alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gollm.finetuning.options import FinetuneOptions
from gollm.finetuning.padding import PaddedBatches, evaluation_of, fingerprint
from gollm.finetuning.sft import sft
from gollm.finetuning.task import Base, Task
from gollm.language_model import load
from gollm.model.decoder import Decoder
from gollm.training.callbacks import Callback, TrainResult
from gollm.training.estimate import Estimate, Workload, estimate
from gollm.training.resume import resumed_options
from gollm.training.run_folder import RunFolder
from gollm.training.trainer import Trainer
from gollm.training.training_data import TrainingData

TASKS: dict[str, Callable[[FinetuneOptions, Base], Task]] = {"sft": sft}


@dataclass(frozen=True)
class FinetuneJob:
    """Everything that is known before the model's weights are read. It holds the run folder's lock until it has run, or
    its `with` block ends.

    total_steps   all steps of the run
    n_done        how many of them a resumed run has done"""

    options: FinetuneOptions
    folder: RunFolder
    base: Base
    task: Task
    data: TrainingData
    total_steps: int
    n_done: int
    estimate: Estimate

    @property
    def table(self) -> dict[str, str]:
        """What is about to happen, in words."""
        options, config = self.options, self.base.config
        n_items = options.batch_size * options.grad_accumulation
        return {
            "data": self.task.summary,
            "model": f"{options.model}: {config.n_layers} layers, {config.d_model} wide, "
            f"{self.estimate.n_parameters:,} parameters",
            "training": f"{self.total_steps:,} steps of {n_items} sequences of at most {self.data.batches.context} "
            f"tokens: {self.total_steps * n_items / len(self.task.train):.2g} epochs",
        }

    def run(self, callbacks: Sequence[Callback] = ()) -> TrainResult:
        with self:
            assert self.options.model is not None
            decoder = load(self.options.model, dequantise=True).decoder
            trainer = Trainer(decoder, self.base.tokenizer, self.options, callbacks, objective=self.task.objective)
            return trainer.fit(self.data, self.folder)

    def __enter__(self) -> FinetuneJob:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.close()


def finetune(options: FinetuneOptions, callbacks: Sequence[Callback] = ()) -> TrainResult:
    """Fine-tunes a model as `gollm finetune` does, and returns how it ended.

    Raises ConfigError, DataError, FormatError, TrainingError and CheckpointError, each with a sentence that says what
    to do."""
    return prepare_job(options).run(callbacks)


def prepare_job(options: FinetuneOptions) -> FinetuneJob:
    """Reads the data and what is known of the model, and estimates what training will take, before weights are read."""
    if options.resume is not None:
        options = resumed_options(options)
    assert options.model is not None
    folder = RunFolder.claim(options, f"{Path(options.model).stem or 'model'}-{options.task}")
    try:
        return _prepared(options.replace(out=str(folder.path)), folder)
    except BaseException:
        folder.close()
        raise


def _prepared(options: FinetuneOptions, folder: RunFolder) -> FinetuneJob:
    assert options.model is not None
    base = Base.open(options.model)
    task = TASKS[options.task](options, base)
    B, k = options.batch_size, options.grad_accumulation
    batches = PaddedBatches(
        task.train, task.collate, batch_size=B, n_batches=k, seed=options.seed, longest=task.longest
    )
    validation = evaluation_of(task.validation, task.collate, B, options.eval_batches, task.longest)
    data = TrainingData(batches, validation, fingerprint(task.validation), task.prompt, task.shown, task.defaults)
    total_steps, n_done = options.total_steps(batches), max(folder.checkpoints(), default=0)
    longest = sorted(task.train, key=lambda item: item.length)[-B:]
    work = Workload(
        build=partial(Decoder, base.config),
        batch=task.collate(longest, batches.context),
        evaluation=validation,
        prompt=len(task.prompt),
        objective=task.objective,
    )
    needs = estimate(work, options, total_steps - n_done)
    return FinetuneJob(options, folder, base, task, data, total_steps, n_done, needs)
