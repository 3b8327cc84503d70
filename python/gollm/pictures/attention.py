"""Attention weights: how much each token of a prompt attends to each earlier one, in every layer and head.

The kernels fold softmax(scale q kᵀ) into the sum over v and never hold it. Here the same kernel runs on values of our
own: where the value of token j is the unit vector j, output i is

    y_i = Σ_j w_ij e_j = (w_i0, w_i1, ...),

the weights themselves, with the model's own rotations, grouped heads and windows. A head of D values shows D tokens a
run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gollm.errors import GenerationError
from gollm.kernels import Array
from gollm.language_model import LanguageModel
from gollm.model.batch import Batch
from gollm.model.layers import Block
from gollm.nn import ops
from gollm.nn.storage import Storage
from gollm.nn.tape import no_grad, products_in
from gollm.nn.tensor import Tensor
from gollm.pictures.finite import finite
from gollm.pictures.tokens import labels, prompt_tokens

__all__ = ["AttentionWeights", "attention_weights"]


@dataclass(frozen=True)
class AttentionWeights:
    """tokens: (T) labels; weights: (L, H, T, T) float32, of L layers and H heads: row i is how token i attends, sums to
    1, and is zero beyond i."""

    tokens: list[str]
    weights: Array

    def rollout(self) -> Array:
        """(L, T, T): how much of each token's input reaches each position after each layer (Abnar & Zuidema 2020).

        A block adds attention to what passes by, so a layer mixes tokens by A = ½ mean over heads + ½ identity; after
        layer l it is A_l A_(l-1) ... A_1. MLPs and norms are left out: this is a picture, not a proof."""
        mixing = 0.5 * self.weights.mean(axis=1, dtype=np.float64) + 0.5 * np.eye(len(self.tokens))
        flows = [mixing[0]]
        for layer in mixing[1:]:
            flows.append(layer @ flows[-1])
        return np.stack(flows)


def attention_weights(model: LanguageModel, prompt: str, *, max_tokens: int = 64) -> AttentionWeights:
    """The attention weights of every layer and head for the first max_tokens tokens of a prompt.

    Raises GenerationError for a prompt that is empty or longer than the context, max_tokens below 1, and a model
    without a tokenizer; PictureError for weights that are not finite."""
    if type(max_tokens) is not int or max_tokens < 1:
        raise GenerationError(f"max_tokens is {max_tokens!r}; it must be at least 1")
    ids = prompt_tokens(model, prompt, max_tokens)
    return AttentionWeights(labels(model.tokenizer, ids), weights_of(model, ids))


def weights_of(model: LanguageModel, ids: list[int]) -> Array:
    """(L, H, T, T) float32, of T token ids."""
    decoder = model.decoder
    rotations = None if decoder.rotations is None else decoder.rotations(len(ids))
    with no_grad(), products_in(decoder.compute_dtype):
        stream = decoder.residual_stream(Batch.of_sequences(np.array([ids], np.int32)))
        return np.stack(
            [_of_block(block, x, rotations) for block, x in zip(decoder.blocks, stream, strict=False)]
        )  # the stream goes on to the last block's output


def _of_block(block: Block, x: Tensor, rotations: Array | None) -> Array:
    """(1, T, C), what the block reads -> (H, T, T)"""
    heads, kernels = block.attention.heads, x.storage.kernels
    H, G, D, T = heads["H"], heads["G"], heads["D"], x.shape[1]
    qkv = np.array(block.qkv(x).data).reshape(T, H + 2 * G, D)
    weights = np.empty((H, T, T), np.float32)
    for begin in range(0, T, D):
        n = min(D, T - begin)
        qkv[:, H + G :] = 0
        qkv[begin : begin + n, H + G :, :n] = np.eye(n)[:, None]
        storage = Storage(qkv.reshape(1, T, -1)).to(kernels, x.storage.dtype)
        y = finite(ops.attention(Tensor(storage), rotations=rotations, heads=heads).data, "the attention weights")
        weights[:, :, begin : begin + n] = y.reshape(T, H, D)[:, :, :n].transpose(1, 0, 2)
    return weights
