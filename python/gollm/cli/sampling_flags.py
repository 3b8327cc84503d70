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
    model: Annotated[Path, Positional]  # model in any format, or a run folder (best checkpoint)
    tokenizer: Path | None = None  # tokenizer file or folder, for a model without a tokenizer
    force: bool = False  # accept a tokenizer with far fewer tokens than the model
    context: PositiveInt | None = None  # maximum length in tokens, prompt included (default: the model's context)
    # RoPE scaling for positions beyond the model's context; required for a longer context
    rope_scaling: Literal["linear", "llama3", "none"] | None = None
    # draft model for speculative decoding: a small model with the same tokenizer; the text stays the same, and
    # generation is often faster
    draft: Path | None = None
    device: DeviceName = "cpu"  # device; auto: the GPU if one is available, otherwise the CPU
    dtype: ModelDType = "float32"  # on a GPU: dtype of weights and activations

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
    # sampling temperature; 0: greedy decoding (default: the model's recommendation, or 0.8)
    temperature: NonNegativeFloat | None = None
    # sample from the k most likely tokens; 0: all (default: the model's recommendation, or 0)
    top_k: NonNegativeInt | None = None
    # nucleus sampling: sample from the smallest set of tokens with this total probability; 1: all (default: the model's
    # recommendation, or 1)
    top_p: Annotated[float, Range(above=0, at_most=1)] | None = None
    # remove tokens less likely than this fraction of the largest probability (default: the model's recommendation, or
    # 0)
    min_p: Annotated[float, Range(at_least=0, at_most=1)] | None = None
    # penalty for tokens in the prompt or the text; 1: none (default: the model's recommendation, or 1)
    repetition_penalty: PositiveFloat | None = None
    # subtracted from the logits of tokens generated before (default: 0)
    presence_penalty: float | None = None
    # subtracted from the logits of tokens once per earlier occurrence in the text (default: 0)
    frequency_penalty: float | None = None
    seed: NonNegativeInt | None = None  # random seed; the same seed gives the same text (default: 0)
    stop: tuple[str, ...] = ()  # stop strings, which end the text and are removed from it
    logit_bias: tuple[str, ...] = ()  # values added to the logits of tokens, as ID=NUMBER
    json_schema: Path | None = None  # JSON schema file that constrains the text
    regex: str | None = None  # regular expression that the whole text must match
    grammar: Path | None = None  # grammar file (Lark format) that constrains the text

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
