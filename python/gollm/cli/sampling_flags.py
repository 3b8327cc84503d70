"""Which model, and how to draw tokens: the options that `gollm generate` and `gollm chat` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from gollm.cli.process import Usage, of_the_device, of_the_words
from gollm.errors import ConfigError, GenerationError
from gollm.nn.devices import DeviceName, ModelDType
from gollm.options import NonNegativeFloat, NonNegativeInt, Positional, PositiveFloat, PositiveInt, Range
from gollm.options.types import shown
from gollm.system.files import read_regular, reason

if TYPE_CHECKING:
    from gollm.inference.sampling import Sampling
    from gollm.language_model import LanguageModel

_MAX_FILE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    model: Annotated[Path, Positional]  # a model in any format; of a training run's folder the best checkpoint
    tokenizer: Path | None = None  # a tokenizer's file or folder, for a model that has none with it
    force: bool = False  # take a tokenizer that has far fewer tokens than the model
    context: PositiveInt | None = None  # maximum length in tokens, prompt included (default: the model's context)
    # how rotary positions beyond the model's context are scaled; required for a longer context
    rope_scaling: Literal["linear", "llama3", "none"] | None = None
    # speculation: a small model with the same tokenizer that guesses ahead; the text stays the same, and often comes
    # sooner
    draft: Path | None = None
    device: DeviceName = "cpu"  # where to compute; auto: on a GPU where there is one, else on the CPU
    dtype: ModelDType = "float32"  # dtype of the model's weights and activations on a GPU

    def __post_init__(self) -> None:
        if self.rope_scaling is not None and self.context is None:
            raise ConfigError(f"rope_scaling is {self.rope_scaling!r}, but there is no context to scale to; give both")

    def load(self) -> LanguageModel:
        from gollm.language_model import load

        with of_the_device():
            return load(
                self.model,
                tokenizer=self.tokenizer,
                any_tokenizer=self.force,
                context=self.context,
                rope_scaling=self.rope_scaling,
                device=self.device,
                dtype=self.dtype,
            )

    def load_draft(self) -> LanguageModel | None:
        from gollm.language_model import load

        if self.draft is None:
            return None
        return load(
            self.draft, tokenizer=self.tokenizer, any_tokenizer=self.force, device=self.device, dtype=self.dtype
        )


@dataclass(frozen=True, kw_only=True)
class SamplingFlags:
    """Fields of gollm.Sampling; None leaves the choice to Sampling, or to what the model's file recommends."""

    max_new_tokens: NonNegativeInt | None = None  # maximum number of tokens to generate
    # sampling temperature; 0 always takes the likeliest token (default: the model's recommendation, or 0.8)
    temperature: NonNegativeFloat | None = None
    # sample from the k likeliest tokens; 0: from all (default: the model's recommendation, or 0)
    top_k: NonNegativeInt | None = None
    # nucleus sampling threshold: sample from the fewest tokens whose probabilities sum to this; 1: from all (default:
    # the model's recommendation, or 1)
    top_p: Annotated[float, Range(above=0, at_most=1)] | None = None
    # leave out tokens less likely than this fraction of the likeliest one's probability (default: the model's
    # recommendation, or 0)
    min_p: Annotated[float, Range(at_least=0, at_most=1)] | None = None
    # divide the logits of tokens that the text has already by this, above 0 (default: the model's recommendation, or 1)
    repetition_penalty: PositiveFloat | None = None
    # subtract this from the logits of tokens that were generated before (default: 0)
    presence_penalty: float | None = None
    # subtract this from the logits of tokens for each time that they were generated (default: 0)
    frequency_penalty: float | None = None
    seed: NonNegativeInt | None = None  # the same seed gives the same text (default: 0)
    stop: tuple[str, ...] = ()  # strings that end the text; they are left out of it
    logit_bias: tuple[str, ...] = ()  # numbers to add to the logits of tokens: ID=NUMBER, by token id
    json_schema: Path | None = None  # a file with the JSON schema that the text must follow
    regex: str | None = None  # the regular expression that the whole text must match
    grammar: Path | None = None  # a file with the grammar that the text must follow, in Lark's format

    # What --help leaves to --help-all.
    RARE: ClassVar[tuple[str, ...]] = (
        *("context", "rope_scaling", "draft", "dtype", "min_p", "presence_penalty", "frequency_penalty", "logit_bias"),
        *("json_schema", "regex", "grammar"),
    )
    SHORT: ClassVar[Mapping[str, str]] = {"m": "model", "n": "max_new_tokens"}
    DEFAULTS: ClassVar[Mapping[str, str]] = {"max_new_tokens": "the model's recommendation, or 200"}

    def sampling(self, **more: object) -> Sampling:
        """A Sampling with what was given. Raises Usage for what it refuses."""
        from gollm.inference.sampling import Sampling

        given = {field.name: getattr(self, field.name) for field in fields(SamplingFlags)} | more
        given["logit_bias"] = dict(map(_bias, self.logit_bias))
        for name in ("json_schema", "grammar"):
            if (path := getattr(self, name)) is not None:
                given[name] = _text_of(path)
        with of_the_words():
            return Sampling(**{name: value for name, value in given.items() if value not in (None, (), {})})


def _text_of(path: Path) -> str:
    try:
        return read_regular(path, _MAX_FILE).decode()
    except OSError as failure:
        raise GenerationError(f"cannot read {path}: {reason(failure)}") from None
    except UnicodeDecodeError as failure:
        raise GenerationError(f"{path} is not UTF-8 text (byte {failure.start})") from None


def _bias(text: str) -> tuple[int, float]:
    """ "50256=-2.5" -> (50256, -2.5)"""
    token, _, number = text.partition("=")
    try:
        return int(token), float(number)
    except ValueError:
        raise Usage(f"--logit-bias has {shown(text)}; it must be ID=NUMBER, such as 50256=-2.5") from None
