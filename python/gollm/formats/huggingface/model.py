"""Models in Hugging Face's folders: GPT-2, LLaMA 2 and 3, Mistral, Qwen-2, SmolLM.

    config.json              the architecture                           gollm.formats.huggingface.config
    model.safetensors        the weights, in one file or several        gollm.formats.huggingface.weights
    tokenizer.json           the tokenizer, where it has one that gollm reads
    generation_config.json   how to generate, beside tokenizer_config.json and chat_template.jinja

Weights are the same but for two layouts: GPT-2's matrices are stored (inputs, outputs), and rows of queries and keys
with each rotated pair half a head apart (gollm.formats.rotary_order).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gollm import tokenizers
from gollm.errors import FormatError, TokenizerError, warn
from gollm.formats.huggingface import config as huggingface_config
from gollm.formats.huggingface.generation_config import (
    generation_json,
    read_defaults,
    read_object,
    with_tokens_of,
    write_chat_templates,
)
from gollm.formats.huggingface.safetensors import write_tensors
from gollm.formats.huggingface.weights import INDEX, SINGLE, Weights, open_weights, parts_of
from gollm.formats.rotary_order import to_half_split
from gollm.formats.source import ModelFormat, Source, StorageType
from gollm.kernels import Array
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.system.files import replacing, replacing_folder
from gollm.tokenizers import BPETokenizer, SentencePieceTokenizer, Tokenizer, WordPieceTokenizer

SHARD_BYTES = 5 * 10**9  # of weights in a file, unless a single tensor is larger

# --- reading ---------------------------------------------------------------------------------------------------------


def recognises(path: Path) -> bool:
    return os.path.isfile(path / "config.json")


def read(path: Path) -> Source:
    values = read_object(path / "config.json")
    if values is None:
        raise FormatError(f"the folder {path} has no config.json")
    config = huggingface_config.from_json(values, str(path / "config.json"))
    with ExitStack() as stack:
        tensors = open_weights(path, stack)
        weights = Weights(path, config, tensors)
        defaults = read_defaults(path, values, config.vocab_size)
        tokenizer, without = _read_tokenizer(path)
        close = stack.pop_all().close
    dtype = ", ".join(sorted({tensor.dtype for _, tensor in tensors.values()}))
    return Source(
        weights.config,
        weights.read,
        tokenizer,
        defaults,
        close,
        dtype=dtype,
        without_tokenizer=without,
        half=weights.half,
    )


def _read_tokenizer(folder: Path) -> tuple[Tokenizer | None, str]:
    """The tokenizer, or why there is none: token ids are enough for a model to work."""
    both = (folder / "tokenizer.json", folder / "tokenizer.model")  # of SentencePiece's there are both
    why: list[str] = []
    for path in [path for path in both if path.is_file()] or [folder]:
        try:
            return tokenizers.load(path), ""
        except TokenizerError as error:
            why.append(str(error))
    return None, why[0]


# --- writing ---------------------------------------------------------------------------------------------------------


def write(source: Source, path: Path, dtype: StorageType) -> None:
    config = huggingface_config.holdable(source.config, qwen2=_tokenizer_is_qwen2(source.tokenizer))
    parameters = Decoder(config).parameters.values()
    shapes = {part.name: part.shape for parameter in parameters for part in parts_of(parameter, config)}
    arrays = _arrays(source, config)
    with replacing_folder(path, FormatError) as folder:
        shards = _shards(shapes, dtype)
        for name, shard in shards.items():
            with replacing(folder / name, FormatError) as file:
                write_tensors(file, shard, dtype, arrays)
        if len(shards) > 1:
            size = sum(map(math.prod, shapes.values()))
            _write_json(
                folder / INDEX,
                {
                    "metadata": {"total_size": size * (4 if dtype == "f32" else 2), "total_parameters": size},
                    "weight_map": {tensor: name for name, shard in shards.items() for tensor in shard},
                },
            )
        defaults = with_tokens_of(source.tokenizer, source.defaults)
        _write_tokenizer(source, defaults, folder, path)
        generation = generation_json(defaults)
        ids = {key: value for key, value in generation.items() if key.endswith("_token_id")}
        if generation:
            _write_json(folder / "generation_config.json", generation)
        empty = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))  # or transformers takes GPT-2's own
        _write_json(folder / "config.json", huggingface_config.to_json(config, dtype) | empty | ids)


def _tokenizer_is_qwen2(tokenizer: Tokenizer | None) -> bool:
    """transformers' AutoTokenizer gives a model of type qwen2 the normalizer and pattern of Qwen-2, always."""
    if tokenizer is None:
        return True
    return isinstance(tokenizer, BPETokenizer) and (tokenizer.pattern, tokenizer.normalizer) == ("qwen2", "NFC")


def _shards(shapes: Mapping[str, tuple[int, ...]], dtype: StorageType) -> dict[str, dict[str, tuple[int, ...]]]:
    """File name -> its tensors, in order."""
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        n_bytes = math.prod(shape) * (4 if dtype == "f32" else 2)
        if groups[-1] and size + n_bytes > SHARD_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = shape
        size += n_bytes
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i:05}-of-{len(groups):05}.safetensors": group for i, group in enumerate(groups, 1)}


def _arrays(source: Source, config: ModelConfig) -> Iterator[tuple[str, Array]]:
    """Every tensor of the folder, one parameter in memory at a time; biases that the source lacks are zeros."""
    for parameter, array in source.parameters(config):
        for part in parts_of(parameter, config):
            rows = array[part.begin : part.end]
            if part.layout == "transposed":
                rows = rows.T
            elif part.layout == "half-split":
                rows = to_half_split(rows, config.head_dim)
            yield part.name, rows


def _write_tokenizer(source: Source, defaults: GenerationDefaults, folder: Path, path: Path) -> None:
    """Into `folder`, which becomes `path`; a tokenizer that the format cannot hold is left out with a warning."""
    tokenizer = source.tokenizer
    if tokenizer is not None:
        if not isinstance(tokenizer, BPETokenizer | SentencePieceTokenizer | WordPieceTokenizer):
            raise FormatError(f"a {tokenizer.kind} tokenizer has no form in Hugging Face's tokenizer.json; bpe has")
        try:
            tokenizers.save(tokenizer, folder / "tokenizer.json", "huggingface")
        except TokenizerError as error:
            why = str(error).replace(str(folder), str(path))
            warn(f"{path} is written without its tokenizer: {why}")
            tokenizer = None
    if tokenizer is not None:
        spelling = {index: text for text, index in tokenizer.special_tokens.items()}
        ids = {
            "bos_token": defaults.bos_token,
            "eos_token": next(iter(defaults.stop_tokens), None),
            "pad_token": defaults.pad_token,
        }
        _write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": source.config.context,
                "clean_up_tokenization_spaces": False,
                **{key: spelling[index] for key, index in ids.items() if index in spelling},
            },
        )
    write_chat_templates(defaults, folder)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with replacing(path, FormatError) as file:
        file.write((json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


FORMAT = ModelFormat("huggingface", recognises, read, write, ("f32", "bf16", "f16"), _read_tokenizer)
