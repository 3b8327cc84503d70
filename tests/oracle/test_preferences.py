"""DPO and its variants beside PyTorch: losses, margins and gradients, written out over a model of transformers."""

from __future__ import annotations

import numpy as np
import pytest

import gollm
from gollm.finetuning.dpo import Pair, Pairs, Preference
from gollm.finetuning.rendering import TokenSequence

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
F = torch.nn.functional

RNG = np.random.default_rng(0)
BETA = 0.25


def answer(prompt):
    ids = np.concatenate([prompt, RNG.integers(0, 90, RNG.integers(2, 9))]).astype(np.int32)
    return TokenSequence(ids, np.arange(len(ids)) >= len(prompt), "")


PROMPTS = [RNG.integers(0, 90, n) for n in (3, 11, 7)]
PAIRS = [Pair(answer(prompt), answer(prompt), i) for i, prompt in enumerate(PROMPTS)]


def folder_of(path, seed):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=90, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(path)
    return path


def log_probability(model, sequence, normalised):
    logits = model(input_ids=torch.tensor(sequence.inputs[None].astype(np.int64))).logits[0]
    targets = torch.tensor(sequence.targets.astype(np.int64))
    counted = targets >= 0
    log_p = F.log_softmax(logits, -1)[counted].gather(1, targets[counted, None])
    return log_p.mean() if normalised else log_p.sum()


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("kind", ["dpo", "ipo"])
def test_losses_margins_and_gradients(kind, normalised, tmp_path):
    paths = [folder_of(tmp_path / name, seed) for seed, name in enumerate(("policy", "reference"))]
    double = [transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float64) for path in paths]
    policy, reference = double
    losses, margins = [], []
    for pair in PAIRS:
        with torch.no_grad():
            before = [log_probability(reference, one, normalised) for one in (pair.chosen, pair.rejected)]
        now = [log_probability(policy, one, normalised) for one in (pair.chosen, pair.rejected)]
        d = (now[0] - before[0]) - (now[1] - before[1])
        losses.append((d - 1 / (2 * BETA)) ** 2 if kind == "ipo" else -F.logsigmoid(BETA * d))
        margins.append((BETA * d).item())
    mean = torch.stack(losses).mean()
    mean.backward()

    ours, table = gollm.load(paths[0]).decoder, Pairs(PAIRS, normalised, 64)
    table.begin(gollm.load(paths[1]).decoder, tmp_path)
    objective, batch = Preference(kind, BETA), table.collate(PAIRS, 32)
    each = np.empty((2, 3), np.float32)
    loss = objective.loss(ours, batch, np.array([3.0]), each)
    loss.backward()
    assert loss.item() == pytest.approx(mean.item(), rel=1e-5)
    np.testing.assert_allclose(each[0], [one.item() for one in losses], rtol=1e-5)
    np.testing.assert_allclose(each[1], margins, rtol=1e-5, atol=1e-5)
    for name, theirs in (
        ("token_embedding", policy.model.embed_tokens.weight),
        ("blocks.0.mlp.up.weight", policy.model.layers[0].mlp.up_proj.weight),
        ("blocks.1.attention.output.weight", policy.model.layers[1].self_attn.o_proj.weight),
        ("norm.weight", policy.model.norm.weight),
    ):
        expected = theirs.grad.numpy()
        assert np.linalg.norm(ours.parameters[name].grad - expected) < 1e-5 * np.linalg.norm(expected), name
