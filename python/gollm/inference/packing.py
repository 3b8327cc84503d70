"""Weights as decoding reads them: matrices of float32 in panels, from front to back.

A product with one row of activations reads each weight once. From a plain matrix it has to transpose what it reads,
which costs more than the product; panels are transposed once.
"""

from __future__ import annotations

import math

from gollm.model.decoder import Decoder
from gollm.model.lora import layer_of, sites_of
from gollm.nn import dtypes
from gollm.nn.storage import PANELS, ROW_MAJOR, Storage
from gollm.quantisation.panels import PANEL

MOST_BYTES = 64 << 20  # of the copy: beyond it, packing takes as long as several tokens, and memory counts


def packed(w: Storage) -> Storage:
    """A plain weight (N, K) as matmul_packed takes it: [panel of 32 rows][K][32]"""
    N, K = w.shape
    panels = w.kernels.empty((-(-N // PANEL), K, PANEL), w.dtype.array)
    w.kernels.pack_weight(packed=panels, w=w)
    return Storage(panels, w.dtype, PANELS, w.kernels, shape=(N, K))


def packed_for_decoding(model: Decoder) -> Decoder:
    """A decoder with a packed copy of the float32 matrices, and the rest of the model's weights as they are; the same
    bits, and with the same adapters. The model itself where there is nothing to pack, or too much. What changes the
    model's weights afterwards does not change the copy. Kernels of other devices than the CPU read plain matrices as
    they are."""
    if not model.parameters.kernels.is_cpu:
        return model
    config = model.config
    storages = {name: model.parameters[name].storage for name in Decoder(config).parameters}
    tables = {"token_embedding", "position_embedding"}
    if config.tied_head and storages["token_embedding"].layout == ROW_MAJOR:  # a head of its own, which is packed
        config, storages["head"] = config.replace(tied_head=False), storages["token_embedding"]
    matrices = {
        name: w
        for name, w in storages.items()
        if name not in tables and len(w.shape) == 2 and w.layout == ROW_MAJOR and w.dtype is dtypes.float32
    }
    n_bytes = sum(4 * math.prod(w.shape) for w in matrices.values())
    if not matrices or n_bytes > MOST_BYTES or model.compute_dtype != "float32":
        return model
    twin = Decoder(config, model.parameters.dtype)
    twin.parameters.freeze(storages)
    twin.parameters.let_go(storages | {name: packed(w) for name, w in matrices.items()})
    twin.rotations, twin.dropout, twin.adapter_rows = model.rotations, model.dropout, model.adapter_rows
    for site in sites_of(config):
        layer_of(twin, site.parameter).adapter = layer_of(model, site.parameter).adapter
    return twin
