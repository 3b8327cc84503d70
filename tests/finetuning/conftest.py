"""A model and conversations so small that a step takes a few milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gollm
from gollm import Decoder, FinetuneOptions, LanguageModel, ModelConfig
from gollm.model import GenerationDefaults
from gollm.tokenizers import CharacterTokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALPHABET = "".join(map(chr, range(32, 127))) + "\n"
LLAMA = {"norm": "rmsnorm", "position": "rope", "gated_mlp": True, "activation": "silu", "bias": False}
SHAPE = {"n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_model": 32, "context": 96, **LLAMA}


def small_model(template: str | None = CHATML, seed: int = 1, **shape: Any) -> LanguageModel:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = CharacterTokenizer.train(iter([ALPHABET]), None, special_tokens=special)
    config = ModelConfig(**{**SHAPE, "vocab_size": tokenizer.vocab_size, **shape})
    stop = tokenizer.special_tokens["<|im_end|>" if template else "<|endoftext|>"]
    decoder = Decoder(config).initialise(seed)
    return LanguageModel(decoder, tokenizer, GenerationDefaults(stop_tokens=(stop,), chat_template=template))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.golm"
    small_model().save(path)
    return path


def sums(n: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{i % 7}+{i % 5}=", "completion": f"{i % 7 + i % 5}" + "!" * (i % 3)} for i in range(n)]


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def options(base: Path, tmp_path: Path) -> Callable[..., FinetuneOptions]:
    """options(lr=0.1): a small run into tmp_path/run, with changes."""
    data = write_lines(tmp_path / "sums.jsonl", sums(40))
    usual = {"model": str(base), "data": (str(data),), "out": str(tmp_path / "run"), "steps": 6, "batch_size": 4}
    quiet = {"eval_batches": 2, "sample_tokens": 0, "validation_fraction": 0.1}
    return lambda **changes: FinetuneOptions(**{**usual, **quiet, **changes})


@pytest.fixture
def finetune(options: Callable[..., FinetuneOptions]) -> Callable[..., Any]:
    return lambda **changes: gollm.finetune(options(**changes))
