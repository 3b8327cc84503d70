"""llm.c's files and transformers' GPT-2: a file made of its weights, as llm.c's train_gpt2.py makes one, gives its
logits."""

import numpy as np
import pytest

import gollm

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def test_logits_of_transformers_gpt2(tmp_path):
    sizes = {"n_positions": 12, "vocab_size": 131, "n_layer": 2, "n_head": 3, "n_embd": 24}
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for value in state.values():
        value += 0.02 * np.random.default_rng(value.size).standard_normal(value.shape).astype(np.float32)
    header = np.zeros(256, "<i4")
    header[:8] = (20240326, 3, *sizes.values(), 256)
    ordered = [np.pad(state["transformer.wte.weight"], ((0, 125), (0, 0))), state["transformer.wpe.weight"]]
    for part in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"):
        for kind in ("weight", "bias"):
            ordered += [state[f"transformer.h.{i}.{part}.{kind}"].T for i in range(2)]  # Conv1D has (in, out)
    ordered += [state["transformer.ln_f.weight"], state["transformer.ln_f.bias"]]
    (tmp_path / "model.bin").write_bytes(header.tobytes() + b"".join(a.tobytes() for a in ordered))
    ids = np.random.default_rng(1).integers(0, 131, (2, 12))
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()
    found = gollm.load(tmp_path / "model.bin").logits(ids)
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
