"""config.json key by key: transformers' defaults, every key that its classes write, and random configurations, of which
each is refused or has the logits that transformers computes."""

from __future__ import annotations

import dataclasses
import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gollm
from gollm.errors import FormatError
from gollm.formats.huggingface.config import from_json
from gollm.formats.huggingface.config_keys import DEFAULTS
from gollm.model.rope import frequencies

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

CLASSES = {"gpt2": "GPT2", "llama": "Llama", "mistral": "Mistral", "ministral": "Ministral", "qwen2": "Qwen2"}
ROPE = ("rope_scaling", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings")  # no fields there
FULL, SLIDING = "full_attention", "sliding_attention"

ROTARY = {
    "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "vocab_size": 80, "tie_word_embeddings": False,
}  # fmt: skip
BASES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 80, "n_inner": 40,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.0, "tie_word_embeddings": True,
    },
    "llama": {**ROTARY, "attention_bias": False, "mlp_bias": False},
    "mistral": {**ROTARY, "sliding_window": 16},
    "ministral": {**ROTARY, "sliding_window": 16, "layer_types": [FULL, SLIDING, FULL]},
    "qwen2": {**ROTARY, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
}  # fmt: skip


def config_class(kind: str) -> Any:
    return getattr(transformers, f"{CLASSES[kind]}Config")


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults(kind: str) -> None:
    fields = {field.name: field.default for field in dataclasses.fields(config_class(kind))}
    for key, value in DEFAULTS[kind].items():
        if key in ROPE or (kind, key) == ("qwen2", "head_dim"):
            assert key not in fields and value is None
        else:
            assert fields[key] == value, key
    assert config_class(kind).default_theta == 10000.0


@pytest.mark.parametrize("kind", DEFAULTS)
@pytest.mark.parametrize("all_keys", [True, False])
def test_what_their_classes_write(kind: str, all_keys: bool) -> None:
    """With the defaults of their generation config among them, as old versions wrote them."""
    config = config_class(kind)(**BASES[kind])
    values = config.to_dict() if all_keys else config.to_diff_dict()
    from_json({**transformers.GenerationConfig().to_dict(), **values}, "config.json")


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, base in BASES.items() for key in base])
def test_a_key_that_is_missing(kind: str, key: str, tmp_path: Path) -> None:
    values = {name: value for name, value in BASES[kind].items() if name != key} | {"model_type": kind}
    (tmp_path / "config.json").write_text(json.dumps(values))
    try:
        ours = from_json(values, "config.json")
    except FormatError:  # 4 heads for queries, but 8 or 32 for keys and values; or 12 of a width of 32
        with pytest.raises(Exception, match=r"."):
            model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
            model(torch.tensor([[1, 2]]))
        return
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (ours.n_layers, ours.n_heads) == (theirs.num_hidden_layers, theirs.num_attention_heads)
    assert (ours.d_model, ours.vocab_size) == (theirs.hidden_size, theirs.vocab_size)
    assert (ours.context, ours.tied_head) == (theirs.max_position_embeddings, theirs.tie_word_embeddings)
    if kind == "gpt2":
        assert ours.d_ff == (theirs.n_inner or 4 * theirs.n_embd)
        assert (ours.norm_eps, ours.dropout) == (theirs.layer_norm_epsilon, theirs.resid_pdrop)
        return
    assert (ours.d_ff, ours.norm_eps) == (theirs.intermediate_size, theirs.rms_norm_eps)
    assert ours.n_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    types = getattr(theirs, "layer_types", None) or [SLIDING if kind == "mistral" else FULL] * ours.n_layers
    windows = [getattr(theirs, "sliding_window", None) if each == SLIDING else None for each in types]
    assert [ours.window(i) for i in range(ours.n_layers)] == windows


LARGE = ("model_type", "hidden_size", "n_embd", "n_layer", "num_hidden_layers", "vocab_size")  # not left out below
LINEAR, LLAMA_3 = {"factor": 4.0}, {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROTATIONS: list[Any] = [
    None, {}, {"rope_type": "default"}, {"type": "default"}, {"rope_theta": 500.0},
    {"rope_type": "linear", **LINEAR}, {"type": "linear", **LINEAR}, {"type": "linear", **LINEAR, "rope_theta": 70.0},
    {"rope_type": "linear", "type": "yarn", **LINEAR}, {"rope_type": "default", **LINEAR},
    {"rope_type": "llama3", **LLAMA_3, "rope_theta": 90.0, "original_max_position_embeddings": 16},
    {"rope_type": "llama3", **LLAMA_3, "original_max_position_embeddings": 16}, {"rope_type": "llama3", **LLAMA_3},
    {"type": "yarn", **LINEAR, "original_max_position_embeddings": 16}, {"type": "dynamic", **LINEAR},
    {"rope_type": "linear", **LINEAR, "partial_rotary_factor": 0.5}, {"rope_type": "linear"},
    {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "factor": 4.0},
    {"rope_type": "default", "mrope_section": [2, 1, 1]}, {"rope_type": "default", "partial_rotary_factor": 1.0},
    {FULL: {"rope_type": "default", "rope_theta": 50.0}, SLIDING: {"rope_type": "default", "rope_theta": 10000.0}},
]  # fmt: skip
ANY: dict[str, list[Any]] = {
    "is_causal": [True, False, None], "tie_word_embeddings": [True, False], "vocab_size": [80, 67],
    "layer_types": [None, [FULL] * 3, [SLIDING] * 3, [FULL, SLIDING, FULL], [FULL, "chunked_attention", SLIDING]],
    "sliding_window": [None, 1, 7, 64, 4096], "use_sliding_window": [True, False], "max_window_layers": [0, 1, 2, 28],
    "attention_dropout": [0.0, 0.3], "pretraining_tp": [1, 2], "use_cache": [True, False], "pad_token_id": [0, None],
    "auto_map": [{"AutoModelForCausalLM": "modeling.Model"}], "attention_chunk_size": [None, 8], "head_dim": [8],
    "architectures": [["LlamaForCausalLM"], None], "is_decoder": [True, False], "is_encoder_decoder": [False, True],
    "attention_bias": [True, False], "mlp_bias": [True, False], "torch_dtype": ["float32", None], "dtype": ["float32"],
    "partial_rotary_factor": [None, 1.0, 0.5], "rope_theta": [None, 100.0, 1e6],
    "rope_interleaved": [False, True], "per_layer_config": [{}, {"1": {"sliding_window": 3}}],
    "attn_logit_softcapping": [None, 5.0], "logits_scaling": [1.0, 2.0], "my_own_note": ["text", None],
    "tie_encoder_decoder": [False], "chunk_size_feed_forward": [0, 8], "num_key_value_heads": [4],
}  # fmt: skip
VALUES: dict[str, dict[str, list[Any]]] = {
    "gpt2": {
        **ANY, "n_inner": [None, 24], "n_head": [1, 2], "n_positions": [48], "n_ctx": [64, 32], "hidden_size": [24],
        "num_hidden_layers": [2], "num_attention_heads": [2], "max_position_embeddings": [50],
        "scale_attn_weights": [True, False], "scale_attn_by_inverse_layer_idx": [False, True],
        "reorder_and_upcast_attn": [False, True], "add_cross_attention": [False, True],
        "layer_norm_epsilon": [1e-3], "resid_pdrop": [0.1, 0], "summary_type": ["first"],
        "activation_function": ["relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate",
                                "gelu_python", "gelu_10", "quick_gelu", "tanh", "silu", "swish", "mish", "relu2"],
    },
}  # fmt: skip
for _kind in ("llama", "mistral", "ministral", "qwen2"):
    VALUES[_kind] = {
        **ANY, "rope_scaling": ROTATIONS, "rope_parameters": ROTATIONS, "original_max_position_embeddings": [None, 24],
        "hidden_act": ["silu", "gelu", "gelu_pytorch_tanh", "gelu_fast", "relu", "gelu_10", "quick_gelu", "relu2"],
        "num_key_value_heads": [1, 2, 4, None], "head_dim": [None, 6, 12], "num_attention_heads": [2, 4],
        "intermediate_size": [24], "num_hidden_layers": [1, 2], "max_position_embeddings": [48], "rms_norm_eps": [1e-3],
    }  # fmt: skip


def mutated(rng: random.Random) -> dict[str, Any]:
    kind = rng.choice(list(BASES))
    values = {"model_type": kind, **BASES[kind]}
    for key in rng.sample(sorted(VALUES[kind]), rng.randrange(5)):
        values[key] = rng.choice(VALUES[kind][key])
    if rng.random() < 0.2:
        del values[rng.choice([key for key in values if key not in LARGE])]
    return values


def tampered(state: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """What a file may have of the head and the embedding, names without their first part, and tensors of no use."""
    state = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    embedding = "transformer.wte.weight" if "transformer.wte.weight" in state else "model.embed_tokens.weight"
    choice = rng.randrange(8)
    if choice == 0:
        del state["lm_head.weight"]
    elif choice == 1:
        del state[embedding]
    elif choice == 2:
        state["lm_head.weight"] = state["lm_head.weight"] + torch.randn_like(state["lm_head.weight"])
    elif choice == 3:
        state["lm_head.weight"] = state["lm_head.weight"].to(torch.bfloat16)
    elif choice == 4:
        state = {name.removeprefix("model.").removeprefix("transformer."): tensor for name, tensor in state.items()}
    if rng.random() < 0.2:
        name = rng.choice(["rope.freqs", "model.rotary_emb.inv_freq", "v_head.summary.weight", "h.0.attn.masked_bias"])
        state[name] = torch.ones(3)
    return state


def trial(seed: int, folder: Path) -> str:
    """What became of a random model: "same" logits, "refused" here, or "failed" there (then here too, or nothing can be
    compared). Raises AssertionError where the logits are different."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    values = mutated(rng)
    (folder / "config.json").write_text(json.dumps(values))
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        state = tampered(model.state_dict(), rng)
        safetensors_torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
        theirs, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32
        )
        if found["missing_keys"] or found["mismatched_keys"]:
            raise ValueError("random weights")
        ids = torch.randint(0, min(80, theirs.config.vocab_size), (2, 40))
        with torch.no_grad():
            expected = theirs.eval()(ids).logits.numpy()
    except Exception:
        expected = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ours = gollm.load(folder)
        except FormatError as error:
            message = str(error)
            assert "\n" not in message and len(message) < 600, message
            return "refused"
    if expected is None:
        return "failed"
    found = ours.logits(ids.numpy())
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < 1e-4, (seed, values, error)
    return "same"


@pytest.mark.parametrize("seed", range(0, 240, 20))
@pytest.mark.filterwarnings("ignore")
def test_random_configurations(seed: int, tmp_path: Path) -> None:
    outcomes = [trial(each, tmp_path) for each in range(seed, seed + 20)]
    assert "same" in outcomes and "refused" in outcomes


@pytest.mark.parametrize("outer", [None, 24])
@pytest.mark.parametrize("inner", [None, 16])
def test_the_original_context_of_llama3(outer: int | None, inner: int | None) -> None:
    rope = {"rope_type": "llama3", **LLAMA_3, "rope_theta": 50.0}
    values = {"model_type": "llama", **ROTARY, "rope_scaling": rope}
    if inner:
        rope["original_max_position_embeddings"] = inner
    if outer:
        values["original_max_position_embeddings"] = outer
    model = transformers.LlamaModel(transformers.LlamaConfig(**json.loads(json.dumps(values))))
    np.testing.assert_allclose(
        frequencies(from_json(values, "config.json")), model.rotary_emb.inv_freq.numpy(), rtol=1e-5
    )


ODD: list[Any] = [
    None, True, False, 0, -1, 10**19, 1.5, -0.5, 1e308, "x", "", [], {}, [[]], {"a": {}}, [None], [FULL] * 3,
    {FULL: None}, {"rope_type": []}, {"rope_type": None}, {"type": {}}, "y" * 10000, [1] * 10000,
]  # fmt: skip


@pytest.mark.parametrize("kind", BASES)
def test_odd_values_of_every_key(kind: str) -> None:
    """A configuration, or a sentence."""
    for key in {*VALUES[kind], *config_class(kind)().to_dict()} - {"model_type"}:
        for value in ODD:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    from_json({"model_type": kind, **BASES[kind], key: value}, "config.json")
            except FormatError as error:
                assert str(error).startswith("config.json: ") and len(str(error)) < 500
