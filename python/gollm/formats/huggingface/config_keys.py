"""The keys of Hugging Face's config.json: what each architecture reads, and what changes nothing.

A key that may change the computation and is not known is refused by name: the same rule as in gguf/config.py. Sources:
the configuration classes of transformers 5, whose defaults these are (tests/oracle/test_huggingface_keys.py compares
them), its modelling code, and the keys that transformers 3 and 4 have written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gollm.errors import FormatError
from gollm.system.strict_json import shorten

Values = Mapping[str, Any]

_ROTARY: Values = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": None, "hidden_act": "silu",
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "rope_parameters": None, "rope_scaling": None, "rope_theta": None, "partial_rotary_factor": None,
    "original_max_position_embeddings": None,
}  # fmt: skip

# Architecture -> the keys that it reads, and their values where a file does not have them. Their names say which
# model_type has them, except that transformers takes a mistral with layer_types for a ministral.
DEFAULTS: dict[str, Values] = {
    "gpt2": {
        "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1, "tie_word_embeddings": True,
    },
    "llama": {
        **_ROTARY, "intermediate_size": 11008, "num_key_value_heads": None, "max_position_embeddings": 2048,
        "attention_bias": False, "mlp_bias": False,
    },
    "mistral": {**_ROTARY, "sliding_window": 4096},
    "ministral": {**_ROTARY, "sliding_window": 4096, "layer_types": None},
    "qwen2": {
        **_ROTARY, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
        "max_position_embeddings": 32768, "use_sliding_window": False, "sliding_window": 4096,
        "max_window_layers": 28, "layer_types": None,
    },
}  # fmt: skip
FULL_ATTENTION = ("full_attention", "attention")  # the second is an old name
_NULLABLE = ("num_key_value_heads", "sliding_window")  # null is a value of its own there, and where it is the default

_ALIASES: dict[str, Values] = {  # transformers' attribute_map; where a file has both, they win there
    "gpt2": {
        "hidden_size": "n_embd", "max_position_embeddings": "n_positions", "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
}  # fmt: skip

# Training, output, generation (gollm.formats.huggingface.generation_config), tokens, and where the file comes from.
_HARMLESS_NAMES = """
model_type architectures auto_map transformers_version _name_or_path name_or_path model_name _commit_hash
dtype torch_dtype use_bfloat16 torchscript tf_legacy_loss xla_device transformers.js_config
unsloth_version unsloth_fixed
use_cache output_attentions output_hidden_states output_scores output_past return_dict use_return_dict
return_dict_in_generate chunk_size_feed_forward pretraining_tp reorder_and_upcast_attn is_decoder
tie_encoder_decoder tie_last_hidden_states
attn_implementation _attn_implementation _attn_implementation_autoset _attn_implementation_internal
_experts_implementation experts_implementation _flash_attn_2_enabled use_flash_attention use_flash_attn
initializer_range initializer_factor init_std gradient_checkpointing neftune_noise_alpha
attention_dropout attn_pdrop embd_pdrop resid_pdrop resid_dropout embd_dropout hidden_dropout hidden_dropout_prob
attention_probs_dropout_prob classifier_dropout dropout
id2label label2id num_labels _num_labels problem_type loss_type finetuning_task task_specific_params
keys_to_ignore_at_inference
summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout summary_last_dropout
predict_special_tokens n_special n_ctx seq_length max_seq_len max_seq_length max_sequence_length model_max_length
tokenizer_model_max_length
tokenizer_class tokenizer_type prefix vocab_file
bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id
bos_token eos_token pad_token unk_token
max_length min_length max_new_tokens min_new_tokens do_sample early_stopping num_beams num_beam_groups
diversity_penalty temperature top_k top_p min_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
encoder_no_repeat_ngram_size encoder_repetition_penalty bad_words_ids num_return_sequences forced_bos_token_id
forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
epsilon_cutoff eta_cutoff num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold
assistant_lookbehind target_lookbehind generation_config
"""
_HARMLESS = frozenset(_HARMLESS_NAMES.split())

# Keys that mean nothing at these values; so does every other one at null.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "alibi": (False,),
    "attention_bias": (False,),
    "embedding_multiplier": (1,),
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "is_llama_config": (True,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "mlp_bias": (False,),
    "n_routed_experts": (0,),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "partial_rotary_factor": (1,),
    "per_layer_config": ({},),
    "pruned_heads": ({},),
    "qk_layernorm": (False,),
    "residual_multiplier": (1,),
    "rope_interleaved": (False,),
    "rope_scaling": ({},),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "use_mrope": (False,),
    "use_qk_norm": (False,),
}
_NEVER_NULL = ("is_causal", "scale_attn_weights")  # transformers takes null for false there

_ADVICE = dict.fromkeys(
    ("quantization", "quantization_config"),
    "; gollm reads weights in float32, float16 and bfloat16: save them as one of these",
)


def architecture(values: Values, where: str) -> str:
    """Which of DEFAULTS the file is for. Raises FormatError."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in DEFAULTS:
        raise FormatError(f"{where}: model_type is {shorten(kind)}; gollm reads {', '.join(DEFAULTS)}")
    return "ministral" if kind == "mistral" and "layer_types" in values else kind


def complete(values: Values, kind: str, where: str) -> dict[str, Any]:
    """What the architecture reads, with its default where the file has nothing.

    Raises FormatError for null where a value is needed, and for a key that is not known or not neutral."""
    aliases = _ALIASES.get(kind, {})
    found = dict(DEFAULTS[kind])
    for key, value in sorted(values.items(), key=lambda item: item[0] in aliases):
        name = aliases.get(key, key)
        if name not in found:
            continue
        if value is None and DEFAULTS[kind][name] is not None and name not in _NULLABLE:
            raise FormatError(f"{where}: {key} is null; a model of type {kind} needs a value there")
        found[name] = value
    for key, value in values.items():
        if aliases.get(key, key) not in found and not _changes_nothing(key, value, kind, values, found):
            known = key in _NEUTRAL or key in _ADVICE or any(key in keys for keys in DEFAULTS.values())
            raise FormatError(f"{where}: {_refusal(key, value, kind) if known else _unknown(key, value)}")
    return found


def _changes_nothing(key: str, value: Any, kind: str, values: Values, found: Values) -> bool:
    """Whether a key that the architecture does not read has a value without effect."""
    if key in _HARMLESS or value in _NEUTRAL.get(key, ()) or (value is None and key not in _NEVER_NULL):
        return True
    windowed = found.get("sliding_window") is not None
    match key:
        case "attention_bias":
            return kind == "qwen2"  # whose biases are fixed
        case "layer_types":
            return isinstance(value, list) and all(each in FULL_ATTENTION for each in value)
        case "max_window_layers":
            return not windowed
        case "sliding_window":  # of an architecture without windows
            context = found.get("max_position_embeddings", found.get("n_positions"))
            return values.get("use_sliding_window") is False or (type(value) is type(context) and value >= context)
        case "use_sliding_window":  # of an architecture that always uses the window that there is
            return value is windowed
        case "num_key_value_heads":
            return bool(value == found["n_head"])
        case "head_dim":
            return type(value) is int and bool(value * found["n_head"] == found["n_embd"])
    return False


def _refusal(key: str, value: Any, kind: str) -> str:
    allowed = " or ".join(map(repr, _NEUTRAL.get(key, ())))
    advice = _ADVICE.get(key, f"; it reads {key} {allowed} only" if allowed else "")
    return f"{key} is {shorten(value)}, which gollm does not compute in a model of type {kind}{advice}"


def _unknown(key: str, value: Any) -> str:
    return (
        f"the key {shorten(key)} ({shorten(value)}) is not known, and may change what the model computes; delete it "
        "from the file if it does not"
    )
