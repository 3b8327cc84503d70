"""LoRA: a low-rank addition to the weights of linear layers, which is trained in their place (Hu et al. 2021).

    y = x wᵀ + bias + scale (dropout(x) aᵀ) bᵀ          w (O, I), a (r, I), b (O, r), scale = alpha / r

w is frozen, and may be stored in any dtype (QLoRA: Dettmers et al. 2023). b starts at zero, so that training starts
from the model as it is.

A site is a linear layer of a block, or a part of its outputs: of the product that gives queries, keys and values, each
has an addition of its own, as where other programs have three layers; GPT-2 has one layer there, and one addition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gollm.errors import ConfigError
from gollm.kernels import Array
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.layers import Adapter, Linear, LowRank, MixedAdapters
from gollm.nn.parameters import ParameterArena

TARGETS = ("q", "k", "v", "qkv", "output", "gate", "up", "down")
_STREAM = 1 << 20  # of the dropout of the first site: beyond those of all layers


@dataclass(frozen=True)
class Site:
    """Rows begin to end of the weight `parameter` get the addition `target`."""

    parameter: str
    target: str
    begin: int
    end: int


@dataclass(frozen=True)
class LoraConfig:
    """How adapters are made. `targets` are names of TARGETS; none: all layers."""

    rank: int
    alpha: float
    targets: tuple[str, ...] = ()
    dropout: float = 0.0

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def sites_of(config: ModelConfig, targets: Sequence[str] = ()) -> list[Site]:
    """The sites in a model that some targets name, block by block. Raises ConfigError for a target that it lacks."""
    known = [site.target for site in _sites_of_block(config, 0)]
    wanted: set[str] = set()
    for target in targets or known:
        expanded = ("q", "k", "v") if target == "qkv" and "q" in known else (target,)
        for name in expanded:
            if name not in known:
                raise ConfigError(
                    f"this model has no layer {target!r} for LoRA; it has {', '.join(dict.fromkeys(known))}"
                )
            wanted.add(name)
    return [
        site for layer in range(config.n_layers) for site in _sites_of_block(config, layer) if site.target in wanted
    ]


def _sites_of_block(config: ModelConfig, layer: int) -> list[Site]:
    C, F, D = config.d_model, config.d_ff, config.head_dim
    q, kv = config.n_heads * D, config.n_kv_heads * D
    attention, mlp = f"blocks.{layer}.attention", f"blocks.{layer}.mlp"
    if config.family == "gpt2":
        of_qkv = [Site(f"{attention}.qkv.weight", "qkv", 0, q + 2 * kv)]
    else:
        ends = (("q", 0, q), ("k", q, q + kv), ("v", q + kv, q + 2 * kv))
        of_qkv = [Site(f"{attention}.qkv.weight", name, begin, end) for name, begin, end in ends]
    gate = [Site(f"{mlp}.gate.weight", "gate", 0, F)] if config.gated_mlp else []
    return [
        *of_qkv,
        Site(f"{attention}.output.weight", "output", 0, C),
        *gate,
        Site(f"{mlp}.up.weight", "up", 0, F),
        Site(f"{mlp}.down.weight", "down", 0, C),
    ]


def attach(decoder: Decoder, lora: LoraConfig, seed: int, *, trained: Sequence[str] = ()) -> None:
    """Gives a decoder adapters at all sites that the configuration names, with their starting values. They and the
    parameters named in `trained` are all that is trained from then on; the others stay where they are in memory.

    Raises ConfigError for a target that the model lacks, and a rank above a layer's width."""
    before = {name: parameter.storage for name, parameter in decoder.parameters.items()}
    _add(decoder, sites_of(decoder.config, lora.targets), lora, trained)
    new = [name for name in decoder.parameters if name not in before]
    decoder.parameters.initialise(seed, new)
    for name in trained:
        decoder.parameters[name].data[...] = before[name].array


def with_adapter(decoder: Decoder, scale: float, weights: Mapping[Site, tuple[Array, Array]]) -> Decoder:
    """Another decoder, whose weights are those of this one, in the same memory, with an adapter: a (r, I) and b (O, r)
    of each site."""
    twin = _twin(decoder)
    rank = len(next(iter(weights.values()))[0])
    _add(twin, list(weights), LoraConfig(rank, scale * rank), ())
    for site, values in weights.items():
        for name, array in zip(adapter_names(site), values, strict=True):
            twin.parameters[name].data[...] = array
    twin.parameters.freeze(twin.parameters)
    return twin


def mixed(decoder: Decoder, adapted: Sequence[Decoder]) -> Decoder:
    """Another decoder with the weights of this one, in the same memory, and the adapters of several others, which
    with_adapter() has made of it: each row of a batch has that of adapted[number - 1], or for 0 none (Batch.adapters).
    """
    twin = _twin(decoder)
    for parameter in {site.parameter for site in sites_of(decoder.config)}:
        found = {number: layer_of(other, parameter).adapter for number, other in enumerate(adapted, 1)}
        own = {number: adapter for number, adapter in found.items() if isinstance(adapter, Adapter)}
        if own:
            layer_of(twin, parameter).adapter = MixedAdapters(twin.adapter_rows, own)
    return twin


def has_adapter(decoder: Decoder) -> bool:
    return any(layer_of(decoder, site.parameter).adapter is not None for site in sites_of(decoder.config))


def shares_weights(decoder: Decoder, adapted: Decoder) -> bool:
    """Whether with_adapter() has made a decoder of this one."""
    others = adapted.parameters
    return all(name in others and others[name].storage is own.storage for name, own in decoder.parameters.items())


def _twin(decoder: Decoder) -> Decoder:
    """A decoder without adapters whose weights are those of this one, in the same memory."""
    twin = Decoder(decoder.config, decoder.parameters.dtype)
    storages = {name: decoder.parameters[name].storage for name in twin.parameters}
    twin.parameters.freeze(storages)
    twin.parameters.let_go(storages)
    twin.rotations, twin.compute_dtype = decoder.rotations, decoder.compute_dtype
    return twin


def _add(decoder: Decoder, sites: Sequence[Site], lora: LoraConfig, trained: Sequence[str]) -> None:
    """Adapters at these sites, all zeros, in an arena of their own with what is trained beside them."""
    before = {name: parameter.storage for name, parameter in decoder.parameters.items()}
    for number, site in enumerate(sites):
        outputs, inputs = before[site.parameter].shape
        if lora.rank > min(inputs, site.end - site.begin):
            raise ConfigError(
                f"the LoRA rank is {lora.rank}; at {site.parameter} it must be at most "
                f"{min(inputs, site.end - site.begin)}"
            )
        linear = layer_of(decoder, site.parameter)
        linear.adapter = adapter = linear.adapter or Adapter(outputs, decoder.dropout)
        part = LowRank(inputs, site.end - site.begin, lora.rank, lora.scale, lora.dropout, _STREAM + number)
        assert isinstance(adapter, Adapter)
        adapter.add(site.target, site.begin, part)
    decoder.parameters = ParameterArena(decoder.named_parameters(), decoder.parameters.dtype)
    frozen = {name: storage for name, storage in before.items() if name not in trained}
    decoder.parameters.freeze(frozen)
    decoder.parameters.let_go(frozen)


def layer_of(decoder: Decoder, parameter: str) -> Linear:
    """The linear layer that a weight belongs to, by the weight's name."""
    part: object = decoder
    for name in parameter.split(".")[:-1]:
        part = part[int(name)] if isinstance(part, list) else getattr(part, name)
    assert isinstance(part, Linear)
    return part


def adapter_names(site: Site) -> tuple[str, str]:
    """What the parameters a and b of a site are called in a decoder."""
    stem = f"{site.parameter.removesuffix('.weight')}.adapter.{site.target}"
    return f"{stem}.a", f"{stem}.b"


def delta(a: Array, b: Array, scale: float) -> Array:
    """What an adapter adds to a weight: scale b a, (O, I) float32, summed in double precision."""
    return np.asarray(scale * (b.astype(np.float64) @ a.astype(np.float64)), np.float32)


def added_to(decoder: Decoder) -> dict[str, list[tuple[int, Array]]]:
    """What a decoder's adapters add to its weights: (first row, rows) of each addition, by the weight's name."""
    found: dict[str, list[tuple[int, Array]]] = {}
    for site in sites_of(decoder.config):
        adapter = layer_of(decoder, site.parameter).adapter
        if isinstance(adapter, Adapter) and site.target in adapter.begins:
            a, b = (decoder.parameters[name].data for name in adapter_names(site))
            scale = getattr(adapter, site.target).scale
            found.setdefault(site.parameter, []).append((site.begin, delta(a, b, scale)))
    return found
