"""Adapters in the files of peft (huggingface.co/docs/peft, PeftModel.save_pretrained):

    adapter_config.json          {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", ...], ...}
    adapter_model.safetensors    base_model.model.LAYER.lora_A.weight (r, I) and .lora_B.weight (O, r)
    chat_template.jinja          where the adapter was trained with it

LAYER is the name in Hugging Face's model, without ".weight"; rows of queries and keys are in its order
(gollm.formats.rotary_order). Keys that change what is computed, and that gollm does not have, are refused by name.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gollm.errors import ConfigError, FormatError
from gollm.formats.huggingface.generation_config import TEMPLATE, read_chat_templates, read_object
from gollm.formats.huggingface.safetensors import ENCODINGS, SafetensorsFile, write_tensors
from gollm.formats.huggingface.weights import ADAPTER, parts_of
from gollm.formats.rotary_order import to_half_split, to_interleaved
from gollm.formats.source import Packed, Source
from gollm.kernels import Array
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.model.lora import LoraConfig, Site, adapter_names, delta, sites_of
from gollm.nn.tensor import FLOAT32
from gollm.system.files import read_regular, replacing
from gollm.system.strict_json import shorten

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_BASE = "base_model_name_or_path"
# What says nothing about the computation, or is said by the weights too.
_KNOWN = (
    *("peft_type", "peft_version", "task_type", _BASE, "revision", "inference_mode", "auto_mapping", "runtime_config"),
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "fan_in_fan_out", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
)
_OFF: tuple[Any, ...] = (None, False, {}, [], "none", 0)  # of keys that are not known: values that change nothing


@dataclass(frozen=True)
class AdapterFile:
    """An adapter: how strong it is, and a (r, I) and b (O, r) of each of its sites, as gollm has their rows."""

    scale: float
    weights: Mapping[Site, tuple[Array, Array]]


def adapter_in(path: str | Path) -> Path | None:
    """The folder of the adapter at `path`: itself, or in a run folder its adapter; None where there is none."""
    folders = (Path(path), Path(path) / "adapter")
    return next((folder for folder in folders if os.path.isfile(folder / ADAPTER)), None)


def base_of(folder: Path) -> Path:
    """The model that an adapter is for. Raises FormatError where it is not on this machine."""
    name = _config(folder).get(_BASE)
    if isinstance(name, str) and name:
        for path in (Path(name), folder / name):
            if path.exists() and adapter_in(path) is None:
                return path
    raise FormatError(
        f"{folder} is an adapter of the model {shorten(name)}, which is not here; merge it into the model with: gollm "
        f"convert MODEL TARGET --merge {folder}"
    )


def adapter_info(folder: Path) -> dict[str, Any]:
    """What an adapter is, as JSON can hold it; no weights are read. Raises FormatError."""
    values = _config(folder)
    file = SafetensorsFile(folder / WEIGHTS)
    with closing(file):
        shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    return {
        "path": str(folder),
        "format": "peft",
        "base": values.get(_BASE),
        "rank": values.get("r"),
        "alpha": values.get("lora_alpha"),
        "targets": values.get("target_modules"),
        "parameters": sum(map(math.prod, shapes.values())),
        "tensors": [{"name": name, "shape": list(shape)} for name, shape in shapes.items()],
    }


def read_adapter(folder: Path, config: ModelConfig) -> AdapterFile:
    """Raises FormatError for an adapter that is damaged, of another kind than LoRA, or for another model."""
    values = _config(folder)
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise FormatError(f"{folder / ADAPTER}: r is {shorten(rank)} and lora_alpha {shorten(alpha)}; both are numbers")
    file = SafetensorsFile(folder / WEIGHTS)
    with closing(file):
        left = set(file.tensors)
        weights = {}
        for site, (layer, inputs) in _layers(config).items():
            names = [f"{_PREFIX}{layer}.lora_{part}.weight" for part in "AB"]
            if not left.issuperset(names):
                continue
            left -= set(names)
            a, b = np.empty((rank, inputs), FLOAT32), np.empty((site.end - site.begin, rank), FLOAT32)
            for name, out in zip(names, (a, b), strict=True):
                tensor = file.tensors[name]
                if tensor.dtype not in ENCODINGS or tensor.shape != out.shape:
                    raise FormatError(
                        f"{file.path}: {name} is {tensor.dtype} of shape {tensor.shape}; the model needs {out.shape}"
                    )
                file.read(name, 0, out)
            weights[site] = a, _rows(site, b, config, to_interleaved)
        if left:
            raise FormatError(f"{file.path}: the tensor {shorten(min(left))} belongs to no layer of the model")
        if not weights:
            raise FormatError(f"{file.path} has no weights of LoRA")
    scale = alpha / (math.sqrt(rank) if values.get("use_rslora") else rank)
    return AdapterFile(scale, weights)


def write_adapter(
    folder: Path, decoder: Decoder, lora: LoraConfig, base: str, chat_template: str | None = None
) -> None:
    """Writes a decoder's adapters; `base` is the model that they are for. Raises FormatError."""
    config = decoder.config
    sites, layers = sites_of(config, lora.targets), _layers(config)
    arrays: dict[str, Array] = {}
    for site in sites:
        a, b = (decoder.parameters[name].data for name in adapter_names(site))
        layer, _ = layers[site]
        arrays[f"{_PREFIX}{layer}.lora_A.weight"] = a
        arrays[f"{_PREFIX}{layer}.lora_B.weight"] = _rows(site, b, config, to_half_split)
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        _BASE: base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted({layers[site][0].rpartition(".")[2] for site in sites}),
        "bias": "none",
        "fan_in_fan_out": config.family == "gpt2",
        "inference_mode": True,
    }
    try:
        folder.mkdir(exist_ok=True)
    except OSError as failure:
        raise FormatError(f"cannot make the folder {folder}: {failure.strerror}") from None
    files = {folder / ADAPTER: json.dumps(values, indent=2) + "\n"}
    if chat_template is not None:
        files[folder / TEMPLATE] = chat_template
    for path, text in files.items():
        if not path.is_file() or read_regular(path, len(text.encode()) + 1) != text.encode():
            with replacing(path, FormatError) as file:
                file.write(text.encode())
    with replacing(folder / WEIGHTS, FormatError) as file:
        write_tensors(file, {name: array.shape for name, array in arrays.items()}, "f32", iter(arrays.items()))


def merged(source: Source, folder: Path) -> Source:
    """The model with an adapter added to its weights, in float32 where they are quantised."""
    adapter = read_adapter(folder, source.config)
    changed = {site.parameter for site in adapter.weights}

    def read(name: str, out: Array) -> None:
        source.read(name, out)
        for site, (a, b) in adapter.weights.items():
            if site.parameter == name:
                out[site.begin : site.end] += delta(a, b, adapter.scale)

    def packed(name: str) -> Packed | None:
        return None if name in changed else source.packed(name)

    defaults = with_template(source.defaults, folder)
    return replace(source, read=read, packed=packed, weights=lambda: None, defaults=defaults)


def with_template(defaults: GenerationDefaults, folder: Path) -> GenerationDefaults:
    """With the chat template that an adapter was trained with, where its folder has one."""
    template, _ = read_chat_templates(folder)
    return replace(defaults, chat_template=template or defaults.chat_template)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER
    values = read_object(path)
    if values is None:
        raise FormatError(f"there is no {path}")
    if values.get("peft_type") != "LORA":
        raise FormatError(
            f"{path}: peft_type is {shorten(values.get('peft_type'))}; gollm computes LORA; merge "
            "others into their model first (in peft: model.merge_and_unload())"
        )
    for name, value in values.items():
        if name in _KNOWN or value in _OFF or (name == "init_lora_weights" and value in (True, "gaussian")):
            continue
        raise FormatError(f"{path}: {name} is {shorten(value)}, which gollm does not compute")
    return values


def _layers(config: ModelConfig) -> dict[Site, tuple[str, int]]:
    """What Hugging Face calls the layer of each site ("model.layers.0.self_attn.q_proj"), and its inputs. Raises
    ConfigError for an architecture without names there."""
    if config.family is None:
        raise ConfigError("this model's architecture has no names in the files of peft; GPT-2's and LLaMA's have")
    parameters, found = Decoder(config).parameters, {}
    for site in sites_of(config):
        parameter = parameters[site.parameter]
        part = next(part for part in parts_of(parameter, config) if part.begin == site.begin)
        found[site] = part.name.removesuffix(".weight"), parameter.shape[1]
    return found


def _rows(site: Site, b: Array, config: ModelConfig, order: Any) -> Array:
    """The rows of b in the other order, where they are those of queries or keys with rotations."""
    return np.ascontiguousarray(order(b, config.head_dim)).reshape(b.shape) if site.target in ("q", "k") else b
