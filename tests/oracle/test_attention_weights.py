"""The attention weights that pictures show are those of transformers."""

import numpy as np
import pytest

import gollm
from gollm.pictures.attention import weights_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 61, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3}
LLAMA = {**SIZES, "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64}


@pytest.mark.parametrize("kind", ["GPT2", "Llama", "Mistral"])
def test_weights_are_those_of_transformers(kind, tmp_path):
    torch.manual_seed(0)
    if kind == "GPT2":
        config = transformers.GPT2Config(vocab_size=61, n_embd=48, n_layer=3, n_head=4, n_positions=64)
        theirs = transformers.GPT2LMHeadModel(config)
    else:
        window = {"sliding_window": 7} if kind == "Mistral" else {}
        config = getattr(transformers, f"{kind}Config")(**LLAMA, **window)
        theirs = getattr(transformers, f"{kind}ForCausalLM")(config)
    for name, weight in theirs.named_parameters():  # sharper than at the start
        if any(part in name for part in ("c_attn.weight", "q_proj.weight", "k_proj.weight")):
            weight.data *= 8
    theirs.save_pretrained(tmp_path)
    theirs.set_attn_implementation("eager")
    ids = np.random.default_rng(0).integers(0, 61, 40).tolist()
    with torch.no_grad():
        expected = torch.stack(theirs.eval()(torch.tensor([ids]), output_attentions=True).attentions)[:, 0].numpy()
    np.testing.assert_allclose(weights_of(gollm.load(tmp_path), ids), expected, atol=1e-5)
    assert expected.max() > 0.5
