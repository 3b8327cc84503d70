"""Beam search against transformers' generate(num_beams=...)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gollm
from gollm.inference.beam import BeamText
from gollm.inference.requests import generations
from gollm.inference.sampling import Sampling
from gollm.inference.scheduler import Scheduler, pages_needed
from gollm.language_model import LanguageModel
from gollm.model.generation_defaults import GenerationDefaults

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    torch.manual_seed(4)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=160, vocab_size=40, initializer_range=0.35,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    folder: Path = tmp_path_factory.mktemp("beam")
    theirs.save_pretrained(folder)
    return theirs, gollm.load(folder).decoder


@pytest.mark.parametrize("beams, n", [(2, 1), (4, 4), (7, 3)])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("stop_tokens", [[5], [1, 11, 30], []])
def test_the_same_texts_and_scores(models, beams: int, n: int, length_penalty: float, stop_tokens: list[int]) -> None:
    theirs, ours = models
    for seed in range(3):
        prompt = np.random.default_rng(seed).integers(0, 40, 3 + 50 * seed).tolist()
        with torch.no_grad():
            want = theirs.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                num_beams=beams, num_return_sequences=n, length_penalty=length_penalty,
                max_new_tokens=24, do_sample=False, early_stopping=False, eos_token_id=stop_tokens or None,
                pad_token_id=0, return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
        sampling = Sampling(beams=beams, n=n, length_penalty=length_penalty, max_new_tokens=24)
        model = LanguageModel(ours, None, GenerationDefaults(stop_tokens=tuple(stop_tokens)))
        (search,) = generations(model, prompt, sampling, lambda piece: None)
        assert isinstance(search, BeamText)
        scheduler = Scheduler(ours, pages_needed(search, 160), chunk=512, max_batch=1, vocab_size=None)
        scheduler.add(search)
        while scheduler.busy:
            scheduler.step()
        texts = [until(row[len(prompt) :].tolist(), stop_tokens) for row in want.sequences]
        assert [list(one.tokens) for one in search.results] == texts
        np.testing.assert_allclose([one.score for one in search.results], want.sequences_scores, rtol=1e-4)


def until(tokens: list[int], stop_tokens: list[int]) -> list[int]:
    """Without the stop token and what pads a row of transformers."""
    return next((tokens[:i] for i, token in enumerate(tokens) if token in stop_tokens), tokens)
