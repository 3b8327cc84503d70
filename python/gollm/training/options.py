"""The options of training: the one place that flags, configuration files, --help and programs take them from."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from gollm.errors import ConfigError, TokenizerError
from gollm.model.config import BelowOne, ModelConfig, preset
from gollm.model.options import MODEL_FIELDS, RARE, ModelOptions
from gollm.nn.devices import DeviceName, ModelDType
from gollm.options import (
    Given,
    NonNegativeFloat,
    NonNegativeInt,
    PathText,
    Positional,
    PositiveFloat,
    PositiveInt,
    check,
    replace,
)
from gollm.tokenizers.vocabulary import check_vocab_size
from gollm.training.recipes import recipe

if TYPE_CHECKING:
    from gollm.training.objective import Batches

MAX_EPOCHS = 10  # more repetition of a text is warned of, and not the default
MAX_STEP_TOKENS = 1 << 40  # far beyond any memory; larger arrays have no size
MAX_STEPS = 1 << 62

L = TypeVar("L", bound="LoopOptions")


@dataclass(frozen=True)
class DataOptions:
    """The training data and the tokenizer."""

    # files, folders, wildcards, token shards, or - for standard input (default: the Python standard library's source)
    data: Annotated[tuple[PathText, ...], Positional] = ()
    pattern: tuple[str, ...] = ()  # patterns of the files to read in a folder, for example '*.py'
    field: str | None = None  # JSON Lines field with the text
    encoding: str = "utf-8"  # encoding of text files: any Python codec
    decode_errors: Literal["strict", "replace", "ignore"] = "strict"  # how to handle invalid bytes
    validation_data: tuple[PathText, ...] = ()  # validation text (default: the --validation-fraction of the data)
    validation_fraction: BelowOne = 0.1  # fraction of the data held out for validation
    # where the validation data is taken from: blocks spread over the data, or its end
    validation_split: Literal["blocks", "end"] = "blocks"

    tokenizer: PathText = "bpe"  # bpe, character or word (trained on the data), or a tokenizer file or folder
    vocab_size: PositiveInt | None = None  # vocabulary size of a newly trained tokenizer (default: the preset's)


@dataclass(frozen=True)
class LoopOptions(Given):
    """How a trainer runs, whatever it trains: steps, optimiser and schedule, what is reported and kept."""

    steps: PositiveInt | None = None  # optimiser steps
    epochs: PositiveFloat | None = None  # passes over the training data, instead of --steps
    # early stopping: number of evaluations without a lower validation loss (default: no limit)
    patience: PositiveInt | None = None
    batch_size: PositiveInt = 8  # sequences per micro-batch
    grad_accumulation: PositiveInt = 1  # micro-batches per optimiser step
    # activation recomputation in the backward pass; mlp: norms and MLPs, block: everything except block inputs
    # (default: none, or the setting of the resumed run)
    recompute: Literal["none", "mlp", "block"] | None = None
    # dtype in which activations are stored for the backward pass
    activation_dtype: Literal["float32", "bfloat16"] = "float32"
    # dtype of matrix-multiplication operands; sums stay float32; `gollm doctor` measures the speed-up
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    optimizer: Literal["adamw", "sgd"] = "adamw"  # AdamW, or SGD with momentum
    lr: NonNegativeFloat = 2e-3  # peak learning rate
    min_lr: NonNegativeFloat | None = None  # learning rate of the last step (default: a tenth of the peak)
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"  # learning-rate schedule after the warm-up
    # number of warm-up steps (default: a tenth of all steps, at most 100)
    warmup_steps: NonNegativeInt | None = None
    weight_decay: NonNegativeFloat = 0.1  # weight decay, applied to matrices only
    beta1: BelowOne = 0.9  # beta1 of AdamW, or momentum of SGD
    beta2: BelowOne = 0.99  # beta2 of AdamW
    eps: BelowOne = 1e-8  # epsilon of AdamW
    max_grad_norm: NonNegativeFloat = 1.0  # clip the global gradient norm to this value (0 disables clipping)
    seed: NonNegativeInt = 1337  # random seed of initialisation, data order and dropout
    force: bool = False  # train even if free memory is expected to run out

    log_every: PositiveInt = 10  # steps between log lines
    eval_every: NonNegativeInt = 250  # steps between evaluations; 0: only at the end
    eval_batches: PositiveInt = 20  # number of evaluation batches (always the same batches)
    sample_every: NonNegativeInt | None = None  # steps between samples; 0: only at the end (default: --eval-every)
    sample_tokens: NonNegativeInt = 100  # length of a sample, in tokens; 0: no samples
    sample_prompt: str = ""  # prompt of the samples (default: a new line, or validation text)
    checkpoint_every: NonNegativeInt = 250  # steps between checkpoints; 0: only at the end
    keep_checkpoints: PositiveInt = 2  # number of checkpoints to keep
    statistics_every: NonNegativeInt = 0  # steps between records of gradient and update statistics; 0: none

    out: PathText | None = None  # run folder (default: runs/NAME-N)
    resume: PathText | None = None  # run folder of an interrupted run to resume with its own options
    cache_dir: PathText | None = None  # cache folder for tokenised data (default: $GOLLM_CACHE or ~/.cache/gollm)

    device: DeviceName = "cpu"  # training device; auto: the GPU if one is available, otherwise the CPU
    # on a GPU: dtype of activations, gradients and the working copy of the weights
    dtype: ModelDType = "float32"
    # rounding of updated weights to bfloat16: nearest keeps float32 master weights; stochastic (AdamW only) needs none
    # and saves 4 bytes per parameter
    rounding: Literal["nearest", "stochastic"] = "nearest"

    COMMAND: ClassVar[str] = "train"  # of gollm, which goes on with such a run
    DEFAULT_EPOCHS: ClassVar[float] = MAX_EPOCHS  # where neither steps nor epochs are given
    EITHER: ClassVar = (("steps", "epochs"),)
    # What --help leaves to --help-all.
    RARE: ClassVar[tuple[str, ...]] = (
        *("recompute", "activation_dtype", "compute_dtype", "optimizer", "min_lr", "beta1", "beta2", "eps"),
        *("max_grad_norm", "eval_batches", "sample_every", "sample_tokens", "keep_checkpoints", "statistics_every"),
        *("sample_prompt", "cache_dir", "rounding"),
    )
    ALIASES: ClassVar[Mapping[str, str]] = {
        "learning_rate": "lr",
        "max_steps": "steps",
        "max_iters": "steps",
        "num_train_epochs": "epochs",
        "gradient_accumulation_steps": "grad_accumulation",
        "grad_clip": "max_grad_norm",
        "warmup_iters": "warmup_steps",
        "eval_interval": "eval_every",
        "eval_iters": "eval_batches",
        "log_interval": "log_every",
        "out_dir": "out",
    }

    def __post_init__(self) -> None:
        check(self)
        if self.steps is not None and self.epochs is not None:
            raise ConfigError("--steps and --epochs cannot both be given: each says when training ends")
        if self.patience is not None and not self.eval_every:
            raise ConfigError("--patience counts evaluations, and --eval-every 0 makes none; give one above 0")
        if self.schedule != "constant" and self.resolved_min_lr > self.lr:
            raise ConfigError(
                f"--min-lr is {self.min_lr:g}, above the peak (--lr {self.lr:g}), so the learning rate would rise to "
                "the end; use a lower --min-lr, a higher --lr, or --schedule constant"
            )
        if self.rounding == "stochastic" and self.dtype != "bfloat16":
            raise ConfigError(
                f"--rounding is stochastic, which is for weights of bfloat16, and --dtype is {self.dtype}; use --dtype "
                "bfloat16 or --rounding nearest"
            )
        if self.rounding == "stochastic" and self.optimizer != "adamw":
            raise ConfigError(
                f"--rounding is stochastic, which only AdamW has, and --optimizer is {self.optimizer}; use --optimizer "
                "adamw or --rounding nearest"
            )

    @property
    def default_steps(self) -> int:
        """The most steps of a run that is given neither steps nor epochs."""
        return MAX_STEPS

    def total_steps(self, batches: Batches) -> int:
        """The number of the last step. Raises ConfigError for a warm-up that is longer, of a new run: a resumed one has
        the number that was chosen for its steps at first."""
        n_steps = self._total_steps(batches)
        if self.resume is None and self.warmup_steps is not None and self.warmup_steps > n_steps:
            raise ConfigError(
                f"--warmup-steps is {self.warmup_steps:,}, but the run has only {n_steps:,} steps; use fewer warm-up "
                "steps, or more --steps"
            )
        return n_steps

    def _total_steps(self, batches: Batches) -> int:
        if self.steps is not None:
            return self.steps
        epochs = self.DEFAULT_EPOCHS if self.epochs is None else self.epochs
        with contextlib.suppress(OverflowError):
            n_steps = batches.steps(epochs, self.grad_accumulation)
            if self.epochs is None:
                return min(n_steps, self.default_steps)
            if n_steps <= MAX_STEPS:
                return n_steps
        raise ConfigError(f"--epochs is {epochs:g}, which is more than 2^62 steps; use fewer")

    def resolved_warmup_steps(self, total_steps: int) -> int:
        """The step at which the learning rate reaches its peak."""
        return min(100, total_steps // 10) if self.warmup_steps is None else self.warmup_steps

    @property
    def try_it(self) -> str:
        """What to do with the model afterwards, with {} for its path."""
        return 'gollm generate {} "..."'

    @property
    def resolved_min_lr(self) -> float:
        """The learning rate of the last step."""
        return self.lr / 10 if self.min_lr is None else self.min_lr

    @property
    def resolved_sample_every(self) -> int:
        """Steps between samples."""
        return self.eval_every if self.sample_every is None else self.sample_every

    def resolved(self: L, config: ModelConfig, total_steps: int, tokenizer: str) -> L:
        """With every value that was left open and follows from others."""
        return self.replace(
            steps=total_steps if self.epochs is None else None,
            min_lr=self.resolved_min_lr,
            warmup_steps=self.resolved_warmup_steps(total_steps),
            sample_every=self.resolved_sample_every,
        )

    def to_dict(self) -> dict[str, Any]:
        """All options, as JSON and YAML can hold them."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def replace(self: L, **changes: Any) -> L:
        """A copy with changes, which count as given."""
        return replace(self, **changes)


def _recipes_defaults(preset: str) -> dict[str, str]:
    """The defaults of a preset's recipe in words."""
    found = recipe(preset)
    return {
        "steps": f"the preset's, {found.steps} for {preset}, but at most {MAX_EPOCHS} epochs",
        "lr": f"the preset's, {found.lr} for {preset}",
        "batch_size": f"the preset's, {found.batch_size} for {preset}",
        "grad_accumulation": f"the preset's, {found.grad_accumulation} for {preset}; 1 with --batch-size",
    }


@dataclass(frozen=True)
class TrainOptions(LoopOptions, ModelOptions, DataOptions):
    """Train a model from raw text. All results are saved in a run folder."""

    HEADINGS: ClassVar[Mapping[str, str]] = {
        "data": "data",
        "tokenizer": "tokenizer",
        "preset": "model",
        "steps": "training",
        "optimizer": "optimisation",
        "log_every": "logging and checkpoints",
        "out": "output",
        "device": "device",
    }
    RARE: ClassVar = (
        *(*RARE, "field", "encoding", "decode_errors", "validation_fraction", "validation_split", "dtype"),
        *LoopOptions.RARE,
    )
    DEFAULTS: ClassVar = {**ModelOptions.DEFAULTS, **_recipes_defaults("small")}
    ALIASES: ClassVar[Mapping[str, str]] = {
        **ModelOptions.ALIASES,
        **LoopOptions.ALIASES,
        "corpus": "data",
        "patterns": "pattern",
    }

    @staticmethod
    def presets_defaults(name: str) -> Mapping[str, str]:
        """With the recipe that the preset brings."""
        return {**ModelOptions.presets_defaults(name), **_recipes_defaults(name)}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.of_the_preset:
            object.__setattr__(self, name, getattr(recipe(self.preset), name))
        if self.vocab_size is not None and self.tokenizer in ("bpe", "character", "word"):
            try:
                check_vocab_size(self.tokenizer, self.vocab_size, 1)  # END_OF_TEXT
            except TokenizerError as error:
                raise ConfigError(str(error)) from None
        context = self.model_config().context
        if self.batch_size * self.grad_accumulation * context > MAX_STEP_TOKENS:
            raise ConfigError(
                f"--batch-size {self.batch_size} times --grad-accumulation {self.grad_accumulation} times a context of "
                f"{context} is more than the 2^40 tokens that a step may have; use fewer"
            )

    @property
    def of_the_preset(self) -> tuple[str, ...]:
        """The options whose values are the preset's: those of the recipe that are not given. A batch size is given
        without the preset's accumulation, and the other way round."""
        given = vars(self)["_given"]
        batch = ("batch_size", "grad_accumulation")
        chosen = ("lr",) if given & set(batch) else ("lr", *batch)
        return tuple(name for name in chosen if name not in given)

    @property
    def trained_vocab_size(self) -> int | None:
        """The most tokens of a tokenizer that is trained; None: as many as there are characters, or a file's."""
        if self.vocab_size is None and self.tokenizer in ("bpe", "word"):
            return preset(self.preset).vocab_size
        return self.vocab_size

    @property
    def default_steps(self) -> int:
        return recipe(self.preset).steps

    def resolved(self, config: ModelConfig, total_steps: int, tokenizer: str) -> TrainOptions:
        """With the model's shape, and the vocabulary of a tokenizer that was trained, too. `tokenizer` is the kind of
        the one in use: a program may have given a trainer another than the options name."""
        shape = {name: getattr(config, name) for name in MODEL_FIELDS}
        vocab_size = config.vocab_size if self.tokenizer == tokenizer != "character" else self.vocab_size
        return super().resolved(config, total_steps, tokenizer).replace(**shape, vocab_size=vocab_size)
