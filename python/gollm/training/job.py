"""The whole job of `gollm train`: data, tokenizer, model, training, from options alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gollm.data import DataSource, Sampler, TokenDataset, open_source, prepare
from gollm.errors import ConfigError
from gollm.formats import open_tokenizer
from gollm.kernels import Kernels
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn.devices import kernels_of
from gollm.system.strict_json import shorten
from gollm.tokenizers import BPETokenizer, CharacterTokenizer, Tokenizer, WordTokenizer
from gollm.tokenizers.base import END_OF_TEXT
from gollm.training.callbacks import Callback, TrainResult
from gollm.training.estimate import Estimate, Workload, blank, estimate, refuse_unless_fits
from gollm.training.options import MAX_EPOCHS, TrainOptions
from gollm.training.recipes import recipe
from gollm.training.resume import resumed_options
from gollm.training.run_folder import RunFolder
from gollm.training.trainer import Trainer, move
from gollm.training.training_data import MANY_TOKENS, of_tokens, sampler_of


@dataclass(frozen=True)
class Job:
    """Everything that is known before the model takes memory. It holds the run folder's lock until it has run, or its
    `with` block ends.

    total_steps   all steps of the run
    n_done        how many of them a resumed run has done"""

    options: TrainOptions
    kernels: Kernels
    folder: RunFolder
    source: DataSource
    tokenizer: Tokenizer
    dataset: TokenDataset
    batches: Sampler
    config: ModelConfig
    total_steps: int
    n_done: int
    estimate: Estimate

    @property
    def table(self) -> dict[str, str]:
        """What is about to happen, in words."""
        n_train, n_validation, config = len(self.dataset.train), len(self.dataset.validation), self.config
        few = "" if n_validation > config.context else ", too few for a validation loss"
        files = f" ({len(self.source.files):,} files)" if len(self.source.files) > 1 else ""
        table = {
            "data": f"{self.source.name}{files}: {n_train:,} training tokens, {n_validation:,} validation tokens{few}",
            "tokenizer": self._tokenizer_in_words(),
            "model": f"{config.n_layers} layers, {config.n_heads} heads, {config.d_model} wide, context "
            f"{config.context}: {self.estimate.n_parameters:,} parameters",
            "training": self._training_in_words(),
        }
        if self.total_steps > self.batches.steps(MAX_EPOCHS, self.options.grad_accumulation):
            table["note"] = (
                f"after about {MAX_EPOCHS} epochs a model learns its text by heart; use fewer --steps, more text or "
                "--patience"
            )
        return table

    def _tokenizer_in_words(self) -> str:
        wanted, n = self.options.trained_vocab_size, self.tokenizer.vocab_size
        fewer = f" ({wanted:,} asked for; the text has no more)" if wanted and n < wanted else ""
        words = f"{self.tokenizer.kind}, vocabulary of {n:,}{fewer}"
        unknown = self.tokenizer.special_tokens.get(getattr(self.tokenizer, "unknown_token", None) or "")
        if unknown is not None:
            share = float(np.mean(self.dataset.train[:MANY_TOKENS] == unknown))
            words += f", {share:.1%} of the training tokens are unknown" if share >= 0.001 else ""
        return words

    def _training_in_words(self) -> str:
        options, n_train = self.options, len(self.dataset.train)
        step = options.batch_size * options.grad_accumulation * self.config.context
        epochs = self.total_steps * step / n_train
        words = f"{self.total_steps:,} steps of {step:,} tokens: "
        words += f"{epochs:,.0f} epochs" if epochs >= 10 else f"{epochs:.2g} epochs"
        if "lr" in options.of_the_preset and options.resume is None:
            words += f"; learning rate {options.lr:g} of the preset {options.preset} ({recipe(options.preset).source})"
        return words

    def run(self, callbacks: Sequence[Callback] = ()) -> TrainResult:
        with self:
            model = move(Decoder(self.config).initialise(self.options.seed), self.kernels, self.options)
            data = of_tokens(self.dataset, self.tokenizer, self.options, self.config.context, self.batches)
            self.folder.write_files(self.source.files)
            return Trainer(model, self.tokenizer, self.options, callbacks).fit(data, self.folder)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.close()


def train(options: TrainOptions, callbacks: Sequence[Callback] = ()) -> TrainResult:
    """Trains a model as `gollm train` does, and returns how it ended.

    Raises ConfigError, DeviceError, DataError, TokenizerError, TrainingError and CheckpointError, each with a sentence
    that says what to do."""
    return prepare_job(options).run(callbacks)


def prepare_job(options: TrainOptions) -> Job:
    """Reads and tokenises the data, and estimates what training will take, before the model is made.

    The run folder is taken before anything long begins: another process can neither choose nor use it."""
    if not isinstance(options, TrainOptions):
        raise ConfigError(f"the options are {shorten(options)}; they must be a gollm.TrainOptions")
    if options.resume is not None:
        options = resumed_options(options)
    kernels = kernels_of(options.device, options.dtype)
    folder = RunFolder.claim(options, _name_of(options))
    try:
        return _prepared(options.replace(out=str(folder.path)), kernels, folder)
    except BaseException:
        folder.close()
        raise


def _prepared(options: TrainOptions, kernels: Kernels, folder: RunFolder) -> Job:
    source = _source(options, options.data, options.pattern)
    n_done = max(folder.checkpoints(), default=0)
    tokenizer = _tokenizer(options, source, folder)
    dataset = prepare(
        source,
        tokenizer,
        validation_fraction=options.validation_fraction,
        validation_split=options.validation_split,
        validation_source=_validation_source(options),
        cache_dir=options.cache_dir,
    )
    config = options.model_config(tokenizer.vocab_size)
    batches = sampler_of(dataset, options, config.context)
    total_steps = options.total_steps(batches)

    def estimate_of(batch_size: int) -> Estimate:
        work = _workload(config, options.replace(batch_size=batch_size), dataset, kernels)
        return estimate(work, options, total_steps - n_done)

    needs = refuse_unless_fits(estimate_of, options)
    return Job(options, kernels, folder, source, tokenizer, dataset, batches, config, total_steps, n_done, needs)


def _workload(config: ModelConfig, options: TrainOptions, dataset: TokenDataset, kernels: Kernels) -> Workload:
    """Batches of an evaluation are as large as a step's but for the last; a prompt has about a token a character."""
    B, T = options.batch_size, config.context
    windows = min(max(0, len(dataset.validation) - 1) // T, options.eval_batches * B)
    return Workload(
        build=lambda: move(Decoder(config), kernels, options),
        batch=(blank(B, T), blank(B, T)),
        evaluation=[(blank(rows, T), blank(rows, T)) for rows in (min(windows, B), windows % B) if rows],
        prompt=max(1, len(options.sample_prompt)),
        mapped_bytes=dataset.n_bytes,
        kernels=kernels,
    )


def _source(options: TrainOptions, data: Sequence[str], patterns: Sequence[str]) -> DataSource:
    return open_source(
        list(data) or None,
        patterns=patterns,
        field=options.field,
        encoding=options.encoding,
        errors=options.decode_errors,
    )


def _validation_source(options: TrainOptions) -> DataSource | None:
    """Validation text of its own; the patterns choose from its folders too, where it has any."""
    data = options.validation_data
    if not data:
        return None
    return _source(options, data, options.pattern if any(os.path.isdir(path) for path in data) else ())


def _name_of(options: TrainOptions) -> str:
    """A run is called after its data."""
    if not options.data:
        return "python"
    first = options.data[0].rstrip("/")
    return "stdin" if first == "-" else Path(first).stem.strip("*") or "run"


def _tokenizer(options: TrainOptions, source: DataSource, folder: RunFolder) -> Tokenizer:
    """The run's own when it is resumed, a given file's, or one trained on the data."""
    if saved := folder.tokenizer():
        return saved
    if options.tokenizer == "character":
        return CharacterTokenizer.train(source.iter_text(), options.vocab_size, special_tokens=END_OF_TEXT[:1])
    if options.tokenizer in ("bpe", "word"):
        kind = BPETokenizer if options.tokenizer == "bpe" else WordTokenizer
        assert options.trained_vocab_size is not None
        return kind.train(source.iter_text(), options.trained_vocab_size, special_tokens=END_OF_TEXT[:1])
    if options.vocab_size is not None:
        raise ConfigError("--vocab-size is of a tokenizer that is trained; the one given with --tokenizer has its own")
    return open_tokenizer(options.tokenizer)
