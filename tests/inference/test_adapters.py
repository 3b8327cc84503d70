"""Several adapters of one model in an engine: each request has the tokens and log-probabilities that its own model
gives alone, whatever runs beside it."""

from __future__ import annotations

import numpy as np
import pytest

import gollm
from finetuning.conftest import small_model
from gollm.errors import GenerationError
from gollm.formats import open_model, peft
from gollm.model.lora import LoraConfig, attach, mixed
from gollm.quantisation import DTYPES

TARGETS = {"whole": (), "some": ("q", "down"), "one": ("output",)}


@pytest.fixture(scope="module", params=[None, "int8", "bf16"])
def models(request, tmp_path_factory):
    """A model and three adapters of it; in 16 bits or quantised, too."""
    folder = tmp_path_factory.mktemp("adapters")
    base = small_model(context=160)
    for parameter in base.decoder.parameters.values():
        parameter.data[...] *= 3  # far from uniform
    base.save(folder / "base.golm")
    if request.param is not None:
        with open_model(folder / "base.golm") as source:
            gollm.formats.save(source.quantised(DTYPES[request.param]), folder / "narrow.golm")
        base = gollm.load(folder / "narrow.golm")
    found = {}
    for number, (name, targets) in enumerate(TARGETS.items()):
        decoder = small_model(context=160).decoder
        lora = LoraConfig(rank=3 + number, alpha=6.0, targets=targets)
        attach(decoder, lora, seed=number)
        for key, parameter in decoder.parameters.items():
            if key.endswith(".b"):
                parameter.data[...] = np.random.default_rng(number).standard_normal(parameter.shape) * 0.2
        peft.write_adapter(folder / name, decoder, lora, "nothing")
        found[name] = base.with_adapter(folder / name)
    return base, found


def asked(names):
    """Requests of all kinds; many begin alike, in more than a page."""
    rng = np.random.default_rng(3)
    long = rng.integers(0, 90, 70).tolist()
    for i in range(16):
        prompt = [*long, i % 3] if i % 2 else rng.integers(0, 90, 1 + 7 * i).tolist()
        options = {"max_new_tokens": 12 + 3 * i, "logprobs": 1, "seed": i, "temperature": 0.0 if i % 3 else 1.0}
        if i == 5:
            options |= {"n": 3}
        if i == 7:
            options |= {"beams": 3, "logprobs": None, "temperature": 1.0}
        if i == 9:
            options |= {"prompt_logprobs": 1}
        yield names[i % len(names)], prompt, options


def facts(found):
    return [(c.tokens, c.logprobs, c.prompt_logprobs, c.finish_reason) for c in found.choices or (found,)]


@pytest.mark.parametrize("draft", [None, 3])
def test_a_mixed_batch_gives_what_each_gives_alone(models, draft):
    base, adapted = models
    names = [None, "some", "whole", None, "one"]
    requests = list(asked(names))
    with gollm.Engine(base, adapters=adapted, chunk=48, draft=draft) as engine:
        streams = [engine.submit(prompt, adapter=name, **options) for name, prompt, options in requests]
        together = [facts(stream.result()) for stream in streams]
        assert engine.stats.reused_tokens > 0
    for (name, prompt, options), found in zip(requests, together, strict=True):
        with gollm.Engine(base if name is None else adapted[name]) as engine:
            assert facts(engine.submit(prompt, **options).result()) == found, (name, options)
    alike = [found for (name, *_), found in zip(requests, together, strict=True)]
    assert len({str(found) for found in alike}) == len(alike)


def test_tokens_that_are_drawn_ahead_are_the_adapters_own(models):
    base, adapted = models
    options = {"max_new_tokens": 60, "temperature": 0.9, "seed": 4}
    names = ["one", None, "whole", "one"]
    with gollm.Engine(base, adapters=adapted) as engine:
        streams = [engine.submit([5, 6, i], adapter=name, **options) for i, name in enumerate(names)]
        together = [stream.result().tokens for stream in streams]
    for i, (name, tokens) in enumerate(zip(names, together, strict=True)):
        with gollm.Engine(base if name is None else adapted[name]) as engine:
            assert engine.submit([5, 6, i], **options).result().tokens == tokens
    with gollm.Engine(base, adapters=adapted) as engine:
        assert [one.tokens for one in engine.generate([[5, 6, 0]], adapter="one", **options)] == together[:1]


def test_pages_are_reused_by_their_own_adapter_alone(models):
    base, adapted = models
    prompt = np.arange(70) % 90
    with gollm.Engine(base, adapters=adapted) as engine:
        for reused, name in enumerate(["one", None, "some"]):
            engine.submit(prompt, adapter=name, max_new_tokens=1).result()
            assert engine.stats.reused_tokens == 64 * reused
            engine.submit(prompt, adapter=name, max_new_tokens=1).result()
            assert engine.stats.reused_tokens == 64 * (reused + 1)


def test_the_weights_are_shared(models):
    base, adapted = models
    decoder = mixed(base.decoder, [one.decoder for one in adapted.values()])
    assert decoder.parameters.size == 0
    for name, parameter in base.decoder.parameters.items():
        assert decoder.parameters[name].storage is parameter.storage


def test_mistakes(models):
    base, adapted = models
    with gollm.Engine(base) as engine, pytest.raises(GenerationError, match="'x'; this engine was made without any"):
        engine.submit([1], adapter="x")
    with gollm.Engine(base, adapters=adapted) as engine:
        with pytest.raises(GenerationError, match="no adapter 'x'; this engine's are whole, some, one"):
            engine.submit([1], adapter="x")
        with pytest.raises(GenerationError, match="there is no adapter 3"):
            engine.submit([1], adapter=3)
    with pytest.raises(GenerationError, match=r"the adapters are \[.a.\]; they must be a dictionary of models by name"):
        gollm.Engine(base, adapters=["a"])
    for wrong in (small_model(context=160), small_model(context=64)):
        with pytest.raises(GenerationError, match="the adapter 'a' has other weights than the model; load it with"):
            gollm.Engine(base, adapters={"a": wrong})
    for name, wrong in (("a", "runs/polite"), (3, adapted["one"])):
        with pytest.raises(
            GenerationError, match=r"it must be a model that model\.with_adapter\(\) returns, by a name"
        ):
            gollm.Engine(base, adapters={name: wrong})
