"""The weights of a Hugging Face folder: which tensor of which file is what, checked before any of them is read.

    model.safetensors, or model.safetensors.index.json and the files that it names

A head that the configuration ties to the embedding is taken as transformers 5 takes it: where the file has both and
they differ, the stored head counts; where it has one of them, that is both (safetensors.save_model writes one).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from gollm.errors import FormatError, warn
from gollm.formats.huggingface.generation_config import read_object
from gollm.formats.huggingface.safetensors import ENCODINGS, SafetensorsFile, StoredTensor
from gollm.formats.names import rows_of
from gollm.formats.rotary_order import to_interleaved
from gollm.kernels import Array
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn import dtypes
from gollm.nn.dtypes import DType
from gollm.nn.parameters import Parameter
from gollm.nn.tensor import FLOAT32
from gollm.system.strict_json import shorten

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
HEAD = "lm_head.weight"
_HALVES = {"BF16": dtypes.bfloat16, "F16": dtypes.float16}
_MAX_SHARDS = 1000
_BLOCK = 1 << 20  # elements of a transposed matrix that are in memory beside it, or of two that are compared
_BASES = ("model.", "transformer.")  # what the model without its head does not have in its names

# Tensors that are no weights of the model. transformers leaves the first out in silence: tables that old versions
# wrote. Others' tables of rotations, and heads beside the language model's (trl's value head, GPT-2's double heads).
_SILENT = re.compile(r"(.*\.)?(attn\.bias|attn\.masked_bias|rotary_emb\.inv_freq|position_ids)")
_UNUSED = re.compile(
    r"(.*\.)?(rope\.freqs|freqs_cis|freqs_cos|freqs_sin|inv_freq|cos_cached|sin_cached)|(v_head|multiple_choice_head)\..*"
)
_REFUSED = {
    re.compile(r"(.*\.)?(lora_|base_layer\.|modules_to_save\.).*"): "is part of a LoRA, which gollm does not compute; "
    "merge it into the model first (in peft: model.merge_and_unload()), and save that",
    re.compile(r"(score|classifier|qa_outputs)\..*"): "is the head of a classifier; gollm reads models that predict "
    "the next token (…ForCausalLM, …LMHeadModel)",
}

Tensors: TypeAlias = Mapping[str, tuple[SafetensorsFile, StoredTensor]]


@dataclass(frozen=True)
class Part:
    """A tensor of the folder: rows begin to end of a parameter. `shape` is the tensor's own."""

    name: str
    begin: int
    end: int
    shape: tuple[int, ...]
    layout: Literal["same", "transposed", "half-split"]


def parts_of(parameter: Parameter, config: ModelConfig) -> list[Part]:
    """The tensors that a parameter consists of, in order."""
    rows, parts = rows_of(parameter, config, "huggingface"), []
    for i, (name, begin, end) in enumerate(rows):
        shape: tuple[int, ...] = (end - begin, *parameter.shape[1:])
        layout: Literal["same", "transposed", "half-split"] = "half-split" if len(rows) == 3 and i < 2 else "same"
        if config.family == "gpt2" and parameter.name.startswith("blocks.") and len(shape) == 2:
            shape, layout = shape[::-1], "transposed"
        parts.append(Part(name, begin, end, shape, layout))
    return parts


def open_weights(folder: Path, stack: ExitStack) -> Tensors:
    """Every tensor's name, its file and its place there."""

    def opened(name: str) -> SafetensorsFile:
        file = SafetensorsFile(folder / name)
        stack.callback(file.close)
        return file

    if os.path.exists(folder / SINGLE):
        file = opened(SINGLE)
        return {name: (file, tensor) for name, tensor in file.tensors.items()}
    index = read_object(folder / INDEX)
    if index is None:
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
            raise FormatError(
                f"{folder} has its weights as pickles (pytorch_model.bin), which can run code and are not read; "
                f'convert them: python -c "import transformers as t; '
                f"t.AutoModelForCausalLM.from_pretrained('{folder}').save_pretrained('{folder}')\""
            )
        others = sorted(path.name for path in folder.glob("*.safetensors"))
        raise FormatError(
            f"the folder {folder} has a config.json, but neither {SINGLE} nor {INDEX}"
            + (
                f"; it has {shorten(others[0])}, a name that does not say which part of the model it is"
                if others
                else ""
            )
        )
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
    found: dict[str, tuple[SafetensorsFile, StoredTensor]] = {}
    for file in files.values():  # as in transformers, what the index does not mention counts as well
        for tensor, entry in file.tensors.items():
            if tensor in found:
                raise FormatError(
                    f"{where}: the tensor {shorten(tensor)} is in {found[tensor][0].path.name} and in "
                    f"{file.path.name}; delete one of them"
                )
            found[tensor] = file, entry
    return found


class Weights:
    """The parameters of a configuration, each checked to be there in full before any of them is read.

    `config` is the one that they are for: the head is tied only where the file has no other one."""

    def __init__(self, folder: Path, config: ModelConfig, tensors: Tensors) -> None:
        if config.n_layers > len(tensors):
            raise FormatError(f"{folder} has {len(tensors)} tensors, too few for {config.n_layers} layers")
        for name, (file, _) in tensors.items():
            for pattern, why in _REFUSED.items():
                if pattern.fullmatch(name):
                    raise FormatError(f"{file.path}: the tensor {shorten(name)} {why}")
        self._folder, self._tensors = folder, tensors
        self._places: dict[str, tuple[SafetensorsFile, str]] = {}  # a part's name -> its file and its name there
        copies = set()
        self.config = config
        if config.tied_head:
            copies = self._settle_head(config.replace(tied_head=False))
        parameters = Decoder(self.config).parameters
        self._parts = {name: parts_of(parameter, self.config) for name, parameter in parameters.items()}
        for part in (part for parts in self._parts.values() for part in parts):
            if part.name not in self._places:
                self._places[part.name] = self._place(part)
        self._check_others({name for _, name in self._places.values()} | copies)

    def read(self, name: str, out: Array) -> None:
        for part in self._parts[name]:
            file, stored = self._places[part.name]
            rows = out[part.begin : part.end]
            if part.layout == "same":
                file.read(stored, 0, rows)
            elif part.layout == "transposed":
                _read_transposed(file, stored, rows)
            else:
                _read_heads(file, stored, rows, self.config.head_dim)

    def half(self, name: str) -> DType | None:
        places = (self._places[part.name] for part in self._parts[name])
        stored = {file.tensors[tensor].dtype for file, tensor in places}
        return _HALVES.get(stored.pop()) if len(stored) == 1 else None

    def _settle_head(self, untied: ModelConfig) -> set[str]:
        """Decides what the head is that the configuration ties. Returns the names of copies of the embedding."""
        parameters = Decoder(untied).parameters
        (embedding,), (head,) = (parts_of(parameters[name], untied) for name in ("token_embedding", "head"))
        if self._name(head) is None:
            return set()
        if self._name(embedding) is None:
            self._places[embedding.name] = self._place(head)
            return set()
        stored = self._place(head)
        if _equal(self._place(embedding), stored, math.prod(head.shape)):
            return {stored[1]}
        warn(
            f"{self._folder}: config.json ties the head to the embedding, but {stored[1]} has other values; the stored "
            "head is used"
        )
        self.config = untied
        return set()

    def _name(self, part: Part) -> str | None:
        """What the tensor is called in the file; the model without its head has names without the first part."""
        short = part.name.partition(".")[2] if part.name.startswith(_BASES) else part.name
        return next((name for name in (part.name, short) if name in self._tensors), None)

    def _place(self, part: Part) -> tuple[SafetensorsFile, str]:
        name = self._name(part)
        if name is None:
            stem = part.name.removesuffix("weight")
            others = [other for other in self._tensors if other.startswith(stem) and other != stem + "bias"]
            hint = f"; it has {shorten(others[0])}, which gollm does not read" if others else ""
            if part.name == HEAD:
                hint = "; if the head is the embedding, config.json must have tie_word_embeddings true"
            raise FormatError(f"{self._folder}: the tensor {part.name} is missing{hint}")
        file, tensor = self._tensors[name]
        if tensor.dtype not in ENCODINGS or tensor.shape != part.shape:
            raise FormatError(
                f"{file.path}: {name} is {tensor.dtype} of shape {tensor.shape}; config.json needs "
                f"{', '.join(ENCODINGS)} of shape {part.shape}"
            )
        return file, name

    def _check_others(self, used: set[str]) -> None:
        unused = []
        for name, (file, _) in self._tensors.items():
            if name in used or _SILENT.fullmatch(name):
                continue
            if not _UNUSED.fullmatch(name):
                raise FormatError(
                    f"{file.path}: the tensor {shorten(name)} belongs to nothing that gollm has in this architecture"
                )
            unused.append(shorten(name))
        if unused:
            more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
            warn(f"{self._folder}: left out what the model does not compute with: {', '.join(unused[:3])}{more}")


def _equal(a: tuple[SafetensorsFile, str], b: tuple[SafetensorsFile, str], size: int) -> bool:
    """Whether two tensors of `size` elements have the same values, a few at a time."""
    buffers = np.empty((2, min(size, _BLOCK)), FLOAT32)
    for start in range(0, size, _BLOCK):
        x, y = buffers[:, : min(_BLOCK, size - start)]
        for (file, name), out in ((a, x), (b, y)):
            file.read(name, start, out)
        if not np.array_equal(x, y):
            return False
    return True


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
