"""The logit lens, surprisal, norms and histograms, against float64."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

import gollm
from gollm.cli.main import main
from gollm.errors import GenerationError, PictureError
from gollm.inference.generation import prompt_ids
from gollm.pictures.attention import attention_weights
from gollm.pictures.inspection import lens_rows, surprisal_rows
from gollm.pictures.parameter_sizes import BINS, recorded_sizes, weight_histograms
from gollm.pictures.prompt_layers import prompt_layers
from gollm.pictures.token_map import token_map

PROMPT = "the quick brown fox\njumps"


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_the_last_layer_is_what_the_model_predicts(model: gollm.LanguageModel) -> None:
    found = prompt_layers(model, PROMPT, n_guesses=3)
    assert model.tokenizer is not None
    p = softmax(model.logits(prompt_ids(model, PROMPT))[0])
    for guesses, row in zip(found.guesses[-1], p, strict=True):
        best = np.sort(row)[::-1][:3]
        np.testing.assert_allclose([guess.probability for guess in guesses], best, rtol=1e-5)
        assert row[model.tokenizer.encode(guesses[0].token.replace("·", " ").replace("⏎", "\n"))[0]] == row.max()


def test_surprisal_is_the_models_own(model: gollm.LanguageModel) -> None:
    found = prompt_layers(model, PROMPT)
    p = softmax(model.logits(found.ids)[0])
    assert found.surprisal[0] is None
    for i, bits in enumerate(found.surprisal[1:], 1):
        assert bits == pytest.approx(-math.log2(p[i - 1, found.ids[i]]), rel=1e-5)
    rows = surprisal_rows(found)
    assert [row["place"] for row in rows[:4]] == ["1 h", "2 e", "3 ·", "4 q"]


def test_the_lens_reads_each_layer_by_the_last_norm_and_head(model: gollm.LanguageModel) -> None:
    """A model that is cut off after a block predicts what the lens shows there."""
    decoder, found = model.decoder, prompt_layers(model, PROMPT)
    for n in range(len(decoder.blocks) + 1):
        cut = gollm.Decoder(decoder.config).initialise(5)
        cut.blocks = cut.blocks[:n]
        p = softmax(cut.logits(np.array([found.ids], np.int32))[0])
        np.testing.assert_allclose([row[0].probability for row in found.guesses[n]], p.max(axis=-1), rtol=1e-5)
    rows = lens_rows(found)
    assert len(rows) == 4 * len(found.ids) and rows[0]["layer"] == "embedding" and rows[-1]["layer"] == "block 2"


def test_norms_begin_with_those_of_the_embeddings(model: gollm.LanguageModel) -> None:
    found, decoder = prompt_layers(model, PROMPT), model.decoder
    assert decoder.position_embedding is not None
    x = decoder.token_embedding.data[found.ids] + decoder.position_embedding.data[: len(found.ids)]
    np.testing.assert_allclose(found.norms[0], np.linalg.norm(x.astype(np.float64), axis=-1), rtol=1e-6)
    assert found.norms.shape == (4, len(found.ids))


def test_histograms_count_all_weights(model: gollm.LanguageModel) -> None:
    found = weight_histograms(model)
    assert found.keys() == set(model.decoder.parameters)
    for name, one in found.items():
        values = model.decoder.parameters[name].data.astype(np.float64)
        assert sum(one.counts) == values.size and len(one.counts) == BINS
        assert one.mean == pytest.approx(values.mean(), abs=1e-9) and one.std == pytest.approx(values.std(), rel=1e-6)
        inside = ((values >= one.edges[10]) & (values < one.edges[11])).sum()
        assert abs(one.counts[10] - inside) <= 1  # an edge may be rounded


def test_quantised_weights_are_counted_as_what_they_stand_for(model: gollm.LanguageModel, tmp_path) -> None:
    model.save(tmp_path / "m.golm")
    assert main(["quantize", str(tmp_path / "m.golm"), str(tmp_path / "q.golm"), "--weights", "int8"]) == 0
    plain, quantised = (weight_histograms(gollm.load(tmp_path / name)) for name in ("m.golm", "q.golm"))
    name = "blocks.0.mlp.up.weight"
    assert quantised[name].std == pytest.approx(plain[name].std, rel=1e-2)


def test_recorded_sizes_are_those_of_the_run(run) -> None:
    rows = recorded_sizes(run)
    lines = [json.loads(line) for line in (run / "statistics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {2, 4, 6} and len(rows) == 3 * len(lines[0]["parameters"])
    one = rows[0]
    weight, gradient, update = lines[0]["parameters"][one["parameter"]]
    assert (one["weight"], one["gradient"], one["update"]) == (weight, gradient, update)
    assert one["ratio"] == update / weight
    assert recorded_sizes(run / "nothing") == []


@pytest.mark.parametrize("change", [{"max_tokens": 0}, {"n_guesses": -1}, {"max_tokens": 2.0}, {"n_guesses": None}])
def test_odd_counts(model: gollm.LanguageModel, change: dict) -> None:
    with pytest.raises(GenerationError, match="must be at least 1"):
        prompt_layers(model, PROMPT, **change)


def test_a_model_with_more_rows_than_its_tokenizer_has_tokens(model: gollm.LanguageModel) -> None:
    """Rows that pad the embedding may be among the guesses."""
    config = dataclasses.replace(model.config, vocab_size=model.config.vocab_size + 5)
    padded = gollm.LanguageModel(gollm.Decoder(config).initialise(5), model.tokenizer)
    found = prompt_layers(padded, "the", n_guesses=config.vocab_size)
    tokens = {guess.token for guess in found.guesses[0][0]}
    assert {f"#{token}" for token in range(model.config.vocab_size, config.vocab_size)} < tokens


def test_weights_that_are_not_finite(model: gollm.LanguageModel) -> None:
    broken = gollm.LanguageModel(gollm.Decoder(model.config).initialise(5), model.tokenizer)
    broken.decoder.parameters["token_embedding"].data[3, 1] = np.inf
    for draw, what in (
        (lambda: weight_histograms(broken), "the values of token_embedding"),
        (lambda: prompt_layers(broken, "abc"), "the model's logits"),
        (lambda: attention_weights(broken, "abc"), "the attention weights"),
        (lambda: token_map(broken), "the token embeddings"),
    ):
        with pytest.raises(PictureError, match=f"{what} are not finite"):
            draw()
