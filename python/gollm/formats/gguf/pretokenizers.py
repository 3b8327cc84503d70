"""llama.cpp's names of pre-tokenizers: how byte-level BPE cuts text, and what else a name says.

Of several names for the same rule, the first is written. Where llama.cpp's expression is an approximation (its engine
has no classes beside letters, digits, and the like), the model's own stands here: o200k's has marks.
Source: the `tokenizer_pre` branches and `regex_exprs` of src/llama-vocab.cpp, github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from gollm.tokenizers.patterns import Pattern


@dataclass(frozen=True)
class Rule:
    """`pattern` cuts the text; a piece that is a token is not merged with `ignore_merges`; `add_bos` is what a file
    does that has no add_bos_token. `normalizer` has no place in a GGUF file and llama.cpp leaves it out, but the
    models whose tokenizer has this name were trained with it."""

    pattern: Pattern
    ignore_merges: bool = False
    add_bos: bool = False
    normalizer: str | None = None


_GPT2, _LLAMA3, _SMOLLM = Rule("gpt2"), Rule("llama3"), Rule("smollm")
_QWEN2, _O200K = Rule("qwen2"), Rule("o200k")
# transformers' tokenizers of Qwen-2 and Command R normalize, and those of others with the same pattern do not.
_QWEN2_NFC, _SMOLLM_NFC = Rule("qwen2", normalizer="NFC"), Rule("smollm", normalizer="NFC")
_LLAMA3_WHOLE = Rule("llama3", ignore_merges=True, add_bos=True)
_GLM4 = Rule("llama3", ignore_merges=True)
# ASCII punctuation and symbols before letters, words with marks, runs of punctuation and symbols.
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
)
# Mistral's: o200k's without contractions, and with digits one by one.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SEED_CODER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)

RULES: dict[str, Rule] = {
    "gpt-2": _GPT2, "mpt": _GPT2, "olmo": _GPT2, "phi-2": _GPT2, "exaone4": _GPT2, "a.x-4.0": _GPT2,
    "gigachat": _GPT2, "trillion": _GPT2, "jais": _GPT2, "modern-bert": _GPT2, "mellum": _GPT2,
    "granite-docling": _GPT2, "jina-es": _GPT2, "jina-de": _GPT2, "jina-v1-en": _GPT2, "roberta-bpe": _GPT2,
    "llama-bpe": _LLAMA3_WHOLE, "llama3": _LLAMA3_WHOLE, "llama-v3": _LLAMA3_WHOLE, "falcon3": _LLAMA3_WHOLE,
    "falcon-h1": _LLAMA3_WHOLE, "pixtral": _LLAMA3_WHOLE, "midm-2.0": _LLAMA3_WHOLE, "lfm2": _LLAMA3_WHOLE,
    "jina-v5-nano": _LLAMA3_WHOLE,
    "glm4": _GLM4, "glm5": _GLM4,
    "dbrx": _LLAMA3, "smaug-bpe": _LLAMA3, "chatglm-bpe": _LLAMA3,
    "qwen2": _QWEN2_NFC,
    "deepseek-r1-qwen": _QWEN2, "stablelm2": _QWEN2, "megrez": _QWEN2, "hunyuan": _QWEN2, "grok-2": _QWEN2,
    "kormo": _QWEN2, "solar-open": _QWEN2, "f2llmv2": _QWEN2,
    "gpt-4o": _O200K, "llama4": _O200K, "kanana2": _O200K, "minimax-m2": _O200K, "talkie": _O200K,
    "smollm": _SMOLLM, "starcoder": _SMOLLM, "refact": _SMOLLM, "codeshell": _SMOLLM,
    "command-r": _SMOLLM_NFC, "exaone": _SMOLLM, "minerva-7b": _SMOLLM, "mellum2": _SMOLLM,
    # These have no pattern of gollm's own. Files that name no rule have the first.
    "default": Rule((r"[\p{P}$+<=>^~|]+", "gpt2", r"\p{N}+", "[0-9][0-9][0-9]")),
    "falcon": Rule((r"[\p{P}$+<=>^~|`]+", "gpt2", "[0-9][0-9][0-9]")),
    "deepseek-coder": Rule((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    "deepseek-v3": Rule(_DEEPSEEK3), "hunyuan-dense": Rule(_DEEPSEEK3), "joyai-llm": Rule(_DEEPSEEK3),
    "tekken": Rule(_TEKKEN, ignore_merges=True, add_bos=True),
    "seed-coder": Rule(_SEED_CODER),
    "minicpm5": Rule((r"\p{N}{1,3}", "llama3"), ignore_merges=True),
}  # fmt: skip

RULE_NAMES: dict[tuple[Pattern, bool, str | None], str] = {
    (rule.pattern, rule.ignore_merges, rule.normalizer): name for name, rule in reversed(RULES.items())
} | {
    # No name means cl100k's pattern, which is LLaMA-3's but for white space at the end of a text.
    ("cl100k", True, None): "llama-bpe",
    ("cl100k", False, None): "dbrx",
}
