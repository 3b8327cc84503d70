"""The whole job of `gollm finetune`: model, data, training, from options alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gollm.errors import ConfigError
from gollm.finetuning.classify import classify
from gollm.finetuning.dpo import dpo
from gollm.finetuning.options import FinetuneOptions
from gollm.finetuning.padding import PaddedBatches, evaluation_of, fingerprint
from gollm.finetuning.sft import sft
from gollm.finetuning.task import Base, Task, new_parameters, with_new_head
from gollm.formats import peft
from gollm.formats.box import unboxed
from gollm.kernels import Kernels
from gollm.language_model import LanguageModel, load
from gollm.model.lora import attach
from gollm.nn.devices import kernels_of
from gollm.system.strict_json import shorten
from gollm.training.callbacks import Callback, TrainResult
from gollm.training.estimate import Estimate, Workload, estimate, refuse_unless_fits
from gollm.training.resume import resumed_options
from gollm.training.run_folder import RunFolder
from gollm.training.trainer import Trainer, move
from gollm.training.training_data import FrozenWeights, TrainingData

TASKS: dict[str, Callable[[FinetuneOptions, Base], Task]] = {"sft": sft, "dpo": dpo, "classify": classify}


@dataclass(frozen=True)
class FinetuneJob:
    """Everything that is known before the model's weights are read. It holds the run folder's lock until it has run, or
    its `with` block ends.

    total_steps   all steps of the run
    n_done        how many of them a resumed run has done"""

    options: FinetuneOptions
    kernels: Kernels
    folder: RunFolder
    base: Base
    task: Task
    batches: PaddedBatches
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
            "training": f"{self.total_steps:,} steps of {n_items} sequences of at most {self.batches.context} "
            f"tokens: {self.total_steps * n_items / len(self.task.train):.2g} epochs",
        }

    def run(self, callbacks: Sequence[Callback] = ()) -> TrainResult:
        with self:
            assert self.options.model is not None
            lora = self.options.lora
            decoder = load(self.options.model, dequantise=lora is None or not self.base.packed).decoder
            config = self.task.config or self.base.config
            if self.task.config is not None:
                decoder = with_new_head(decoder, config, self.options.seed)
            if lora is not None:
                attach(decoder, lora, self.options.seed, trained=new_parameters(config))
            frozen = None if lora is None else FrozenWeights.of(decoder, str(self.options.model))
            move(decoder, self.kernels, self.options)
            self.task.begin(decoder, self.folder.path)
            trainer = Trainer(decoder, self.base.tokenizer, self.options, callbacks, objective=self.task.objective)
            return trainer.fit(self._data(frozen), self.folder)

    def _data(self, frozen: FrozenWeights | None) -> TrainingData:
        task, lora, base = self.task, self.options.lora, os.path.abspath(unboxed(Path(self.options.model or "")))

        def save(model: LanguageModel, folder: RunFolder) -> None:
            """The best model so far; adapters in the files of peft, but for a classifier: its head is trained, too."""
            if lora is None or task.config is not None:
                model.save(folder.best_path)
            else:
                peft.write_adapter(folder.adapter_path, model.decoder, lora, base, task.defaults.chat_template)

        return TrainingData(
            batches=self.batches,
            validation=_validation(self.options, task),
            fingerprint=fingerprint(task.validation),
            prompt=task.prompt,
            shown=task.shown,
            defaults=task.defaults,
            frozen=frozen,
            each_checkpoint=lora is not None,  # whose checkpoints are no models by themselves
            save=save,
        )

    def __enter__(self) -> FinetuneJob:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.close()


def finetune(options: FinetuneOptions, callbacks: Sequence[Callback] = ()) -> TrainResult:
    """Fine-tunes a model as `gollm finetune` does, and returns how it ended.

    Raises ConfigError, DeviceError, DataError, FormatError, TrainingError and CheckpointError, each with a sentence
    that says what to do."""
    return prepare_job(options).run(callbacks)


def prepare_job(options: FinetuneOptions) -> FinetuneJob:
    """Reads the data and what is known of the model, and estimates what training will take, before weights are read."""
    if not isinstance(options, FinetuneOptions):
        raise ConfigError(f"the options are {shorten(options)}; they must be a gollm.FinetuneOptions")
    if options.resume is not None:
        options = resumed_options(options)
    assert options.model is not None
    kernels = kernels_of(options.device, options.dtype)
    folder = RunFolder.claim(options, f"{Path(options.model).stem or 'model'}-{options.task}")
    try:
        return _prepared(options.replace(out=str(folder.path)), kernels, folder)
    except BaseException:
        folder.close()
        raise


def _prepared(options: FinetuneOptions, kernels: Kernels, folder: RunFolder) -> FinetuneJob:
    assert options.model is not None
    base = Base.of(options.model, options.dtype)
    task = TASKS[options.task](options, base)
    B, k = options.batch_size, options.grad_accumulation
    batches = PaddedBatches(
        task.train, task.collate, batch_size=B, n_batches=k, seed=options.seed, longest=task.longest
    )
    total_steps, n_done = options.total_steps(batches), max(folder.checkpoints(), default=0)

    def estimate_of(batch_size: int) -> Estimate:
        longest = sorted(task.train, key=lambda item: item.length)[-batch_size:]
        config = task.config or base.config
        work = Workload(
            build=lambda: move(base.blank_decoder(config, options.lora, options.seed), kernels, options),
            batch=task.collate(longest, batches.context),
            evaluation=_validation(options.replace(batch_size=batch_size), task),
            prompt=len(task.prompt),
            objective=task.objective,
            kernels=kernels,
        )
        return estimate(work, options, total_steps - n_done)

    needs = refuse_unless_fits(estimate_of, options)
    return FinetuneJob(options, kernels, folder, base, task, batches, total_steps, n_done, needs)


def _validation(options: FinetuneOptions, task: Task) -> list[Any]:
    return evaluation_of(task.validation, task.collate, options.batch_size, options.eval_batches, task.longest)
