"""LoRA beside peft and PyTorch: adapters in its files both ways, the same loss, gradients and steps."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gollm
from gollm.formats import open_model
from gollm.formats import peft as peft_files
from gollm.model.lora import LoraConfig, adapter_names, attach, sites_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

IDS = np.random.default_rng(0).integers(0, 90, (3, 20)).astype(np.int32)
COUNTED = np.random.default_rng(1).random(IDS.shape) < 0.4
TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
}
LORA = LoraConfig(rank=4, alpha=6.0)
BETAS, EPS, LR = (0.9, 0.999), 1e-8, 3e-3


@pytest.fixture(params=["llama", "gpt2"])
def kind(request):
    return request.param


@pytest.fixture
def folder(kind, tmp_path):
    torch.manual_seed(0)
    if kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=90, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=True,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config)
    else:
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        config = transformers.GPT2Config(
            vocab_size=90, n_embd=32, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0, **dropout
        )
        model = transformers.GPT2LMHeadModel(config)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def theirs_of(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def with_weights(folder):
    """A model with adapters that add something."""
    model = gollm.load(folder).decoder
    attach(model, LORA, seed=1)
    rng = np.random.default_rng(2)
    for name, parameter in model.parameters.items():
        if name.endswith(".b"):
            parameter.data[...] = rng.standard_normal(parameter.shape) * 0.1
    return model


def their_loss(model):
    """The mean over the tokens that count: -100 leaves the others out."""
    labels = torch.tensor(np.where(COUNTED, IDS, -100).astype(np.int64))
    return model(input_ids=torch.tensor(IDS.astype(np.int64)), labels=labels).loss


def our_loss(model):
    return model.loss(IDS[:, :-1], np.where(COUNTED, IDS, -1)[:, 1:])


def test_peft_reads_our_adapter(folder, tmp_path):
    ours = with_weights(folder)
    peft_files.write_adapter(tmp_path / "adapter", ours, LORA, str(folder))
    model = peft.PeftModel.from_pretrained(theirs_of(folder), tmp_path / "adapter")
    logits = model(input_ids=torch.tensor(IDS.astype(np.int64))).logits.detach().numpy()
    np.testing.assert_allclose(ours.logits(IDS), logits, rtol=0, atol=2e-5)
    assert our_loss(ours).item() == pytest.approx(their_loss(model).item(), rel=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_we_read_pefts_adapter(folder, kind, rslora, tmp_path):
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=TARGETS[kind][:3], use_rslora=rslora, task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(theirs_of(folder), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    model.save_pretrained(tmp_path / "adapter")
    values = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert values["base_model_name_or_path"] == str(folder)
    logits = model(input_ids=torch.tensor(IDS.astype(np.int64))).logits.detach().numpy()
    with open_model(tmp_path / "adapter") as source:
        assert source.config.vocab_size == 90
    ours = gollm.load(tmp_path / "adapter")
    np.testing.assert_allclose(ours.logits(IDS), logits, rtol=0, atol=2e-5)


def test_training_all_weights_takes_the_same_steps(folder):
    """50 steps of AdamW: gradients at first, losses to the end."""
    ours, theirs = gollm.load(folder).decoder, theirs_of(folder).train()
    optimizer = gollm.nn.AdamW(
        ours.parameters, beta1=BETAS[0], beta2=BETAS[1], eps=EPS, weight_decay=0, max_grad_norm=1.0
    )
    torch_optimizer = torch.optim.AdamW(theirs.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=0)
    first = None
    for step in range(50):
        lr = LR * min(1, (step + 1) / 5)  # Adam's first steps follow the signs of gradients, however small they are
        ours.parameters.zero_grad()
        loss = our_loss(ours)
        loss.backward()
        torch_optimizer.zero_grad()
        their = their_loss(theirs)
        their.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        assert loss.item() == pytest.approx(their.item(), abs=1e-3)
        our_norm = optimizer.step(lr)
        if step == 0:
            first = their.item()
            assert our_norm == pytest.approx(norm.item(), rel=1e-5)
        torch_optimizer.param_groups[0]["lr"] = lr
        torch_optimizer.step()
    assert their.item() < first - 0.3


def test_training_takes_the_same_steps(folder, tmp_path):
    """50 steps of AdamW from the same adapters: gradients at first, losses to the end."""
    ours = with_weights(folder)
    peft_files.write_adapter(tmp_path / "adapter", ours, LORA, str(folder))
    theirs = peft.PeftModel.from_pretrained(theirs_of(folder), tmp_path / "adapter", is_trainable=True)
    theirs.train()
    trained = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(sites_of(ours.config))
    optimizer = gollm.nn.AdamW(
        ours.parameters, beta1=BETAS[0], beta2=BETAS[1], eps=EPS, weight_decay=0, max_grad_norm=0
    )
    torch_optimizer = torch.optim.AdamW(trained.values(), lr=LR, betas=BETAS, eps=EPS, weight_decay=0)
    first = None
    for step in range(50):
        ours.parameters.zero_grad()
        loss = our_loss(ours)
        loss.backward()
        torch_optimizer.zero_grad()
        their = their_loss(theirs)
        their.backward()
        if step == 0:
            first = their.item()
            norm = np.sqrt(sum(float((p.grad**2).sum()) for p in trained.values()))
            ours.parameters.finish_gradients()
            assert np.linalg.norm(ours.parameters.gradients) == pytest.approx(norm, rel=1e-5)
            for site in sites_of(ours.config):
                if site.target in ("v", "qkv", "output", "up", "down", "gate"):
                    layer, _ = peft_files._layers(ours.config)[site]
                    for name, part in zip(adapter_names(site), "AB", strict=True):
                        grad = trained[f"base_model.model.{layer}.lora_{part}.default.weight"].grad.numpy()
                        np.testing.assert_allclose(ours.parameters[name].grad, grad, rtol=0, atol=1e-5 * norm)
        assert loss.item() == pytest.approx(their.item(), abs=1e-3)
        optimizer.step(LR)
        torch_optimizer.step()
    assert their.item() < first - 0.3
