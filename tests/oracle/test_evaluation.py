"""Perplexity as transformers computes it of a random model, with windows that overlap and windows that do not."""

import math

import numpy as np
import pytest

import gollm
from gollm.data import Texts
from gollm.evaluation import evaluate_model
from gollm.tokenizers import BPETokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXT = "hello world, this is a text\nand this is another one\n" * 20
TOKENIZER = BPETokenizer.train(TEXT, 300, special_tokens=["<|endoftext|>"])


@pytest.mark.parametrize(("context", "stride"), [(32, 32), (32, 7), (19, 19)])
def test_perplexity(tmp_path, monkeypatch, context: int, stride: int) -> None:
    monkeypatch.setenv("GOLLM_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=304,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    peer = transformers.LlamaForCausalLM(config)
    peer.save_pretrained(tmp_path / "model")
    peer = peer.double()
    model = gollm.load(tmp_path / "model")
    model.tokenizer = TOKENIZER
    found = evaluate_model(model, Texts(TEXT), context=context, stride=stride)

    tokens = torch.tensor(TOKENIZER.encode(TEXT).astype(np.int64))
    n = len(tokens) - 1
    losses, scored = [], 0
    for start in range(0, n, stride):
        stop = min(start + context, n)
        targets = tokens[start + 1 : stop + 1].clone()
        targets[: scored - start] = -100
        with torch.no_grad():
            logits = peer(tokens[None, start:stop]).logits[0]
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="none", ignore_index=-100)
        losses += loss[targets != -100].tolist()
        scored = stop
        if stop == n:
            break
    assert found.n_tokens == len(losses) == n
    assert found.cross_entropy.value == pytest.approx(np.mean(losses), rel=1e-6)
    assert found.perplexity.value == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
