"""Models in Hugging Face's folders: GPT-2, LLaMA 2 and 3, Mistral, Qwen-2, SmolLM.

    config.json              the architecture                           gollm.interop.huggingface_config
    model.safetensors        the weights, or model.safetensors.index.json and the files that it names
    tokenizer.json           the tokenizer, where it has one that gollm reads
    generation_config.json   how to generate, beside tokenizer_config.json and chat_template.jinja

Weights are the same but for two layouts: GPT-2's matrices are stored (inputs, outputs), and rows of queries and keys
with each rotated pair half a head apart (gollm.interop.heads).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gollm import tokenizers
from gollm.config import ModelConfig
from gollm.errors import FormatError, TokenizerError
from gollm.files import replacing, replacing_folder
from gollm.generation import GenerationDefaults
from gollm.interop import huggingface_config
from gollm.interop.heads import to_half_split, to_interleaved
from gollm.interop.huggingface_defaults import generation_json, read_defaults, read_json, with_tokens_of
from gollm.interop.safetensors_file import STORAGES, SafetensorsFile, StoredTensor, write_tensors
from gollm.interop.source import Format, Source, StorageType
from gollm.parameters import ParameterSpec
from gollm.specs import parameter_specs
from gollm.strict_json import shorten
from gollm.tensor import FLOAT32, Array
from gollm.tokenizers import BPETokenizer, SentencePieceTokenizer, Tokenizer, WordPieceTokenizer

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # of weights in a file, unless a single tensor is larger
_MAX_SHARDS = 1000
_BLOCK = 1 << 20  # elements of a transposed matrix that are in memory beside it

# Buffers of old files that say nothing.
_IGNORED = re.compile(r"(.*\.)?(attn\.bias|attn\.masked_bias|rotary_emb\.inv_freq)")


@dataclass(frozen=True)
class Part:
    """A tensor of the folder: rows begin to end of a parameter. `shape` is the tensor's own."""

    name: str
    begin: int
    end: int
    shape: tuple[int, ...]
    layout: Literal["same", "transposed", "half-split"]


def parts_of(spec: ParameterSpec, config: ModelConfig) -> list[Part]:
    """The tensors that a parameter consists of, in order."""
    names = spec.other_names["huggingface"]
    heads = [config.n_heads, config.kv_heads, config.kv_heads]
    rows = [n * config.head_size for n in heads] if len(names) == 3 else [spec.shape[0]]
    parts, begin = [], 0
    for i, (name, n) in enumerate(zip(names, rows, strict=True)):
        shape: tuple[int, ...] = (n, *spec.shape[1:])
        layout: Literal["same", "transposed", "half-split"] = "half-split" if len(names) == 3 and i < 2 else "same"
        if config.family == "gpt2" and spec.name.startswith("blocks.") and len(shape) == 2:
            shape, layout = shape[::-1], "transposed"
        parts.append(Part(name, begin, begin + n, shape, layout))
        begin += n
    return parts


# --- reading ---------------------------------------------------------------------------------------------------------


def recognises(path: Path) -> bool:
    return path.is_dir() and (path / "config.json").is_file()


def read(path: Path) -> Source:
    values = read_json(path / "config.json")
    if values is None:
        raise FormatError(f"the folder {path} has no config.json")
    config = huggingface_config.from_json(values, str(path / "config.json"))
    with ExitStack() as stack:
        tensors = _open_weights(path, stack)
        weights = _Weights(path, config, tensors)
        defaults = read_defaults(path, values, config.vocab_size)
        tokenizer, without = _read_tokenizer(path)
        close = stack.pop_all().close
    dtype = ", ".join(sorted({tensor.dtype for _, tensor in tensors.values()}))
    return Source(config, weights.read, tokenizer, defaults, close, dtype=dtype, without_tokenizer=without)


def _open_weights(folder: Path, stack: ExitStack) -> dict[str, tuple[SafetensorsFile, StoredTensor]]:
    """Every tensor's name, its file and its place there."""

    def opened(name: str) -> SafetensorsFile:
        file = SafetensorsFile(folder / name)
        stack.callback(file.close)
        return file

    if (folder / SINGLE).exists():
        file = opened(SINGLE)
        return {name: (file, tensor) for name, tensor in file.tensors.items()}
    index = read_json(folder / INDEX)
    if index is None:
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
            raise FormatError(
                f"{folder} has its weights as pickles (pytorch_model.bin), which can run code and are not read; "
                f'convert them: python -c "import transformers as t; '
                f"t.AutoModelForCausalLM.from_pretrained('{folder}').save_pretrained('{folder}')\""
            )
        raise FormatError(f"the folder {folder} has a config.json, but neither {SINGLE} nor {INDEX}")
    where, map_ = folder / INDEX, index.get("weight_map")
    if not isinstance(map_, dict) or not all(isinstance(name, str) for name in map_.values()):
        raise FormatError(f"{where}: weight_map is {shorten(map_)}; it must name a file for each tensor")
    names = sorted(set(map_.values()))
    if len(names) > _MAX_SHARDS:
        raise FormatError(f"{where} names {len(names):,} files; at most {_MAX_SHARDS:,} are read")
    for name in names:
        if not name.endswith(".safetensors") or not name.isprintable() or re.search(r"[/\\:]|^\.", name):
            raise FormatError(f"{where} names the file {shorten(name)}; only *.safetensors of the folder are read")
    files = {name: opened(name) for name in names}
    for tensor, name in map_.items():
        if tensor not in files[name].tensors:
            raise FormatError(f"{where}: the tensor {shorten(tensor)} is not in {name}")
    return {tensor: (files[name], files[name].tensors[tensor]) for tensor, name in map_.items()}


class _Weights:
    """The parameters of a configuration, each checked to be there in full before any of them is read."""

    def __init__(
        self, folder: Path, config: ModelConfig, tensors: Mapping[str, tuple[SafetensorsFile, StoredTensor]]
    ) -> None:
        if config.n_layers > len(tensors):
            raise FormatError(f"{folder} has {len(tensors)} tensors, too few for {config.n_layers} layers")
        self.config = config
        self.parts = {spec.name: parts_of(spec, config) for spec in parameter_specs(config)}
        self.places: dict[str, tuple[SafetensorsFile, str]] = {}
        used = {"lm_head.weight"} if config.tied_head else set()
        for parts in self.parts.values():
            for part in parts:
                name = part.name
                if name not in tensors:  # the model without its head has names without the first part
                    name = name.partition(".")[2]
                if name not in tensors:
                    raise FormatError(f"{folder}: the tensor {part.name} is missing")
                file, tensor = tensors[name]
                if tensor.dtype not in STORAGES or tensor.shape != part.shape:
                    raise FormatError(
                        f"{file.path}: {name} is {tensor.dtype} of shape {tensor.shape}; config.json needs "
                        f"{', '.join(STORAGES)} of shape {part.shape}"
                    )
                self.places[part.name] = file, name
                used.add(name)
        for name, (file, _) in tensors.items():
            if name not in used and not _IGNORED.fullmatch(name):
                raise FormatError(
                    f"{file.path}: the tensor {shorten(name)} belongs to nothing that gollm has in this architecture"
                )

    def read(self, name: str, out: Array) -> None:
        for part in self.parts[name]:
            file, stored = self.places[part.name]
            rows = out[part.begin : part.end]
            if part.layout == "same":
                file.read(stored, 0, rows)
            elif part.layout == "transposed":
                _read_transposed(file, stored, rows)
            else:
                _read_heads(file, stored, rows, self.config.head_size)


def _read_transposed(file: SafetensorsFile, name: str, out: Array) -> None:
    """A matrix stored (inputs, outputs) into out (outputs, inputs), a few inputs at a time."""
    n_out, n_in = out.shape
    step = max(1, _BLOCK // n_out)
    buffer = np.empty((min(step, n_in), n_out), FLOAT32)
    for begin in range(0, n_in, step):
        block = buffer[: min(step, n_in - begin)]
        file.read(name, begin * n_out, block)
        out[:, begin : begin + step] = block.T


def _read_heads(file: SafetensorsFile, name: str, out: Array, head_dim: int) -> None:
    """Rows (heads * D, ...) with pairs half a head apart, a head at a time."""
    buffer = np.empty((head_dim, *out.shape[1:]), FLOAT32)
    for begin in range(0, len(out), head_dim):
        file.read(name, begin * math.prod(out.shape[1:]), buffer)
        out[begin : begin + head_dim] = to_interleaved(buffer, head_dim).reshape(buffer.shape)


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
    shapes = {part.name: part.shape for spec in parameter_specs(config) for part in parts_of(spec, config)}
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
        _write_tokenizer(source, defaults, folder)
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
    known = {spec.name for spec in parameter_specs(source.config)}
    for spec in parameter_specs(config):
        array = source.array(spec.name, spec.shape) if spec.name in known else np.zeros(spec.shape, FLOAT32)
        for part in parts_of(spec, config):
            rows = array[part.begin : part.end]
            if part.layout == "transposed":
                rows = rows.T
            elif part.layout == "half-split":
                rows = to_half_split(rows, config.head_size)
            yield part.name, rows


def _write_tokenizer(source: Source, defaults: GenerationDefaults, folder: Path) -> None:
    tokenizer = source.tokenizer
    if tokenizer is not None:
        if not isinstance(tokenizer, BPETokenizer | SentencePieceTokenizer | WordPieceTokenizer):
            raise FormatError(f"a {tokenizer.kind} tokenizer has no form in Hugging Face's tokenizer.json; bpe has")
        tokenizer.save_huggingface(folder / "tokenizer.json")
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
    if defaults.chat_template is not None:
        with replacing(folder / "chat_template.jinja", FormatError) as file:
            file.write(defaults.chat_template.encode())


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with replacing(path, FormatError) as file:
        file.write((json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


FORMAT = Format("huggingface", recognises, read, write, ("f32", "bf16", "f16"))
