"""The figures of an evaluation against their definitions, written out in NumPy in double precision."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gollm.data import Texts, write_shard
from gollm.data.sources import TokenShards
from gollm.errors import ConfigError, DataError, EvaluationError, TokenizerError
from gollm.evaluation import evaluate_model, score_tokens, token_scores
from gollm.evaluation.quality import _by_position
from gollm.evaluation.token_scores import positions_of
from gollm.language_model import LanguageModel
from gollm.model.config import preset
from gollm.model.decoder import Decoder
from gollm.tokenizers import BPETokenizer, CharacterTokenizer

TEXT = "hello world, this is a text\nand this is another one\n" * 9
VARIED = " ".join(np.random.default_rng(5).choice(TEXT.split(), 300))  # no value comes twice
TOKENIZER = BPETokenizer.train(TEXT, 270, special_tokens=["<|endoftext|>"])
END = TOKENIZER.special_tokens["<|endoftext|>"]
V = 275  # with rows of padding
CONTEXT = 16


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GOLLM_CACHE", str(tmp_path / "cache"))


def decoder(seed: int = 1, noise: float = 0.3, **changes) -> Decoder:
    config = preset("tiny").replace(vocab_size=V, context=CONTEXT, n_layers=1, d_model=32, n_heads=2, **changes)
    made = Decoder(config).initialise(1)
    generator = np.random.default_rng(seed)
    for parameter in made.parameters.values():
        parameter.data[...] += noise * generator.standard_normal(parameter.shape, dtype=np.float32)
    return made


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x - np.log(np.exp(x - x.max()).sum()) - x.max()


def by_definition(model: Decoder, tokens: np.ndarray, context: int, stride: int) -> np.ndarray:
    """log p of all tokens, after each: the first window that predicts token t begins where stride says.  -> (n, V)"""
    rows = []
    for t in range(1, len(tokens)):
        start = 0
        while start + context < t:
            start += stride
        rows.append(log_softmax(model.logits(tokens[None, start:t])[0, -1]))
    return np.array(rows)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 63])
@pytest.mark.parametrize(("context", "stride"), [(16, 16), (16, 5), (16, 1), (7, 7), (7, 3), (1, 1)])
def test_scores(n: int, context: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_scores, "CHUNK_LOGITS", 3 * V)
    monkeypatch.setattr(token_scores, "BATCH_TOKENS", 2 * context)
    tokens = np.random.default_rng(n).integers(0, V, n + 1)
    model, full = decoder(2), decoder(3)
    calls: list[int] = []
    found = score_tokens(model, tokens, full, context=context, stride=stride, progress=calls.append)
    log_p, log_q = (by_definition(m, tokens, context, stride) for m in (model, full))
    rows, targets = np.arange(n), tokens[1:]
    np.testing.assert_allclose(found.log_probs, log_p[rows, targets], rtol=1e-5)
    np.testing.assert_allclose(found.full_log_probs, log_q[rows, targets], rtol=1e-5)
    np.testing.assert_allclose(found.kl, (np.exp(log_q) * (log_q - log_p)).sum(axis=1), rtol=1e-4)
    np.testing.assert_array_equal(found.same_top, log_p.argmax(axis=1) == log_q.argmax(axis=1))
    assert sum(calls) == n
    alone = score_tokens(model, tokens, context=context, stride=stride)
    np.testing.assert_array_equal(alone.log_probs, found.log_probs)
    assert alone.kl is None


def test_chunks_and_batches_change_no_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.random.default_rng(1).integers(0, V, 200)
    found = score_tokens(decoder(2), tokens, decoder(3), context=9)
    monkeypatch.setattr(token_scores, "CHUNK_LOGITS", 1)
    monkeypatch.setattr(token_scores, "BATCH_TOKENS", 1)
    for a, b in zip(score_tokens(decoder(2), tokens, decoder(3), context=9), found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_figures() -> None:
    model, full = LanguageModel(decoder(2, 0.33), TOKENIZER), LanguageModel(decoder(2), TOKENIZER)
    found = evaluate_model(model, Texts([VARIED, "more"]), against=full, context=10, stride=4)
    tokens = np.concatenate([TOKENIZER.encode(VARIED), [END], TOKENIZER.encode("more")])
    n, targets = len(tokens) - 1, tokens[1:]
    log_p, log_q = (by_definition(m.decoder, tokens, 10, 4) for m in (model, full))
    p, q = np.exp(log_p[np.arange(n), targets]), np.exp(log_q[np.arange(n), targets])
    kl = (np.exp(log_q) * (log_q - log_p)).sum(axis=1)
    text_bytes = len(VARIED) + len("more") - len(TOKENIZER.decode_bytes(tokens[:1]))
    assert (found.n_tokens, found.n_bytes, found.context, found.stride) == (n, text_bytes, 10, 4)
    other = found.against
    assert other is not None
    for figure, expected in [
        (found.cross_entropy.value, -np.log(p).mean()),
        (found.perplexity.value, np.exp(-np.log(p).mean())),
        (found.bits_per_byte, -np.log2(p).sum() / text_bytes),
        (other.perplexity.value, np.prod(q ** (-1 / n))),
        (other.cross_entropy.value, -np.log(q).mean()),
        (other.perplexity_ratio.value, np.prod((q / p) ** (1 / n))),
        (other.log_perplexity_ratio.value, np.log(q / p).mean()),
        (other.mean_kl.value, kl.mean()),
        (other.median_kl.value, np.median(kl)),
        (other.kl_99.value, np.percentile(kl, 99)),
        (other.rms_delta_p.value, np.sqrt(np.mean((p - q) ** 2))),
        (other.same_top.value, np.mean(log_p.argmax(axis=1) == log_q.argmax(axis=1))),
    ]:
        assert figure == pytest.approx(expected, rel=1e-4)
    assert other.log_perplexity_ratio.standard_error < found.cross_entropy.standard_error / 2  # paired
    for figure in (*vars(found).values(), *vars(other).values()):
        assert not hasattr(figure, "standard_error") or figure.standard_error > 0
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["against"]["mean_kl"] == other.mean_kl._asdict()


def test_a_model_against_itself() -> None:
    model = LanguageModel(decoder(), TOKENIZER)
    other = evaluate_model(model, Texts(TEXT), against=model).against
    assert other is not None
    for figure, value in [
        (other.perplexity_ratio, 1),
        (other.log_perplexity_ratio, 0),
        (other.mean_kl, 0),
        (other.median_kl, 0),
        (other.kl_99, 0),
        (other.rms_delta_p, 0),
        (other.same_top, 1),
    ]:
        assert figure == (value, 0)


def test_it_is_the_loss_of_training() -> None:
    model = LanguageModel(decoder(), TOKENIZER)
    found = evaluate_model(model, Texts(TEXT), max_tokens=4 * CONTEXT)
    tokens = TOKENIZER.encode(TEXT)[: 4 * CONTEXT + 1]
    loss = model.decoder.loss(tokens[:-1].reshape(4, CONTEXT), tokens[1:].reshape(4, CONTEXT))
    assert found.cross_entropy.value == pytest.approx(float(loss.data), rel=1e-6)
    assert (found.n_tokens, found.context, found.stride) == (4 * CONTEXT, CONTEXT, CONTEXT)


def test_rows_of_padding_count() -> None:
    """Their logits take probability, as in training's loss."""
    model = LanguageModel(decoder(), TOKENIZER)
    before = evaluate_model(model, Texts(TEXT)).cross_entropy.value
    model.decoder.parameters["token_embedding"].data[TOKENIZER.vocab_size :] *= 30
    assert evaluate_model(model, Texts(TEXT)).cross_entropy.value > before + 0.01


def test_token_shards_and_special_tokens(tmp_path) -> None:
    tokens = [END, *TOKENIZER.encode("hello").tolist(), END]
    write_shard(tmp_path / "a.bin", tokens, vocab_size=TOKENIZER.vocab_size)
    model = LanguageModel(decoder(), TOKENIZER)
    found = evaluate_model(model, TokenShards([tmp_path / "a.bin"]))
    assert (found.n_tokens, found.n_bytes) == (len(tokens) - 1, len("hello"))
    write_shard(tmp_path / "b.bin", [END, END], vocab_size=TOKENIZER.vocab_size)
    found = evaluate_model(model, TokenShards([tmp_path / "b.bin"]))
    assert (found.n_tokens, found.n_bytes, found.bits_per_byte) == (1, 0, None)
    assert found.perplexity.standard_error is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.filterwarnings("error")
def test_logits_that_are_not_finite(which: int, value: float) -> None:
    models = [LanguageModel(decoder(), TOKENIZER) for _ in range(2)]
    models[which].decoder.parameters["norm.bias"].data[3] = value
    with pytest.raises(EvaluationError, match="some logits are NaN or infinite"):
        evaluate_model(models[0], Texts(TEXT), against=models[1])


def test_a_perplexity_beyond_numbers_is_null() -> None:
    model = decoder()
    model.parameters["token_embedding"].data[...] *= 1e6
    found = evaluate_model(LanguageModel(model, TOKENIZER), Texts(TEXT))
    assert found.perplexity.value == math.inf and found.cross_entropy.value > 1000
    assert found.to_dict()["perplexity"] == {"value": None, "standard_error": None}
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("text", ["", "h"])
def test_texts_that_are_too_short(text: str) -> None:
    words = "holds no text" if text == "" else "has 1 token, and the first one is never scored; evaluate on a longer"
    with pytest.raises((DataError, EvaluationError), match=words):
        evaluate_model(LanguageModel(decoder(), TOKENIZER), Texts(text))


def test_models_that_cannot_be_compared() -> None:
    model = LanguageModel(decoder(), TOKENIZER)
    small = LanguageModel(Decoder(preset("tiny").replace(vocab_size=270)).initialise(1), TOKENIZER)
    with pytest.raises(EvaluationError, match="vocabularies of 275 and 270 tokens; only models with the same"):
        evaluate_model(model, Texts(TEXT), against=small)
    other = BPETokenizer.train("quite another text " * 9, 270, special_tokens=["<|endoftext|>"])
    with pytest.raises(EvaluationError, match="tokenizers have different tokens; only models with the same"):
        evaluate_model(model, Texts(TEXT), against=LanguageModel(decoder(), other))
    with pytest.raises(EvaluationError, match=r"this model has no tokenizer \(odd file\); name one with --tokenizer"):
        evaluate_model(LanguageModel(decoder(), without_tokenizer="odd file"), Texts(TEXT))
    many = CharacterTokenizer.train(map(chr, range(0x100, 0x300)))
    with pytest.raises(TokenizerError, match=r"a token id is \d+; it must be from 0 to 274"):
        evaluate_model(LanguageModel(decoder(), many), Texts(chr(0x2FF) * 5))


def test_one_tokenizer_serves_both() -> None:
    model, ids = LanguageModel(decoder(), TOKENIZER), LanguageModel(decoder())
    found = [evaluate_model(a, Texts(TEXT), against=b).against for a, b in [(ids, model), (model, ids)]]
    assert found[0] == found[1] is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context": 17}, r"context is 17; it must be from 1 to the model's context \(16\)"),
        ({"context": 0}, "context is 0"),
        ({"context": 8, "stride": 9}, r"stride is 9; it must be from 1 to the context of a window \(8\)"),
        ({"stride": 0}, "stride is 0"),
    ],
)
def test_windows_that_cannot_be(options: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        evaluate_model(LanguageModel(decoder(), TOKENIZER), Texts(TEXT), **options)
    shorter = LanguageModel(decoder(), TOKENIZER)
    assert evaluate_model(LanguageModel(decoder(), TOKENIZER), Texts(TEXT), against=shorter).context == CONTEXT


@pytest.mark.parametrize(("context", "stride"), [(16, 16), (16, 5)])
def test_the_loss_by_position_is_the_mean_over_positions(context: int, stride: int) -> None:
    n = 61
    positions = positions_of(n, context, stride)
    windows = [(start, min(start + context, n)) for start in range(0, n, stride)]
    scored: dict[int, int] = {}
    for start, stop in windows:
        for token in range(start, stop):
            scored.setdefault(token, token - start)
    assert positions.tolist() == [scored[token] for token in range(n)]
    losses = np.random.default_rng(0).random(n)
    found = _by_position(losses, positions)
    assert [(one.first, one.last) for one in found] == [(1, 1), (2, 3), (4, 7), (8, 15), (16, 16)]
    for one in found:
        chosen = (positions + 1 >= one.first) & (positions + 1 <= one.last)
        assert one.cross_entropy == pytest.approx(losses[chosen].mean())
