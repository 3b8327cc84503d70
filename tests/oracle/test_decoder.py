"""Parity with PyTorch: the decoder written there in float64 with the same weights and batch; logits, loss, gradients,
AdamW's steps."""

import math

import numpy as np
import pytest

from gollm.model.config import ModelConfig, preset
from gollm.model.decoder import Decoder
from gollm.nn.optimizer import SGD, AdamW

torch = pytest.importorskip("torch")
F = torch.nn.functional

TOLERANCE = 1e-5  # of ‖x - x64‖ / ‖x64‖ per tensor


def turned(x, config: ModelConfig):
    """x (B, H, T, D) as complex numbers, times e^(i angle)"""
    f = config.rope_theta ** (-torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim)
    if config.rope_scaling == "linear":
        f = f / config.rope_factor
    if config.rope_scaling == "llama3":
        low, high, old = config.rope_low_freq_factor, config.rope_high_freq_factor, config.rope_original_context
        wavelength = 2 * math.pi / f
        s = (old / wavelength - low) / (high - low)
        between = (1 - s) * f / config.rope_factor + s * f
        f = torch.where(
            wavelength < old / high, f, torch.where(wavelength > old / low, f / config.rope_factor, between)
        )
    angles = torch.arange(x.shape[2])[:, None] * f
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def forward(p: dict, config: ModelConfig, ids):
    """The decoder in PyTorch's own operations.  ids: (B, T) -> (B, T, V)"""
    B, T = ids.shape
    H, G, D = config.n_heads, config.n_kv_heads, config.head_dim
    activation = {
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "gelu": F.gelu,
        "relu": F.relu,
        "silu": F.silu,
    }[config.activation]

    def norm(x, name):
        if config.norm == "rmsnorm":
            return F.rms_norm(x, (x.shape[-1],), p[f"{name}.weight"], config.norm_eps)
        return F.layer_norm(x, (x.shape[-1],), p[f"{name}.weight"], p.get(f"{name}.bias"), config.norm_eps)

    def linear(x, name):
        return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))

    x = p["token_embedding"][ids]
    if config.position == "learned":
        x = x + p["position_embedding"][:T]
    for i in range(config.n_layers):
        b = f"blocks.{i}"
        qkv = linear(norm(x, f"{b}.attention_norm"), f"{b}.attention.qkv")
        q, k, v = qkv.split([H * D, G * D, G * D], dim=-1)
        q = q.view(B, T, H, D).transpose(1, 2)
        k = k.view(B, T, G, D).transpose(1, 2).repeat_interleave(H // G, dim=1)
        v = v.view(B, T, G, D).transpose(1, 2).repeat_interleave(H // G, dim=1)
        if config.position == "rope":
            q, k = turned(q, config), turned(k, config)
        mask = torch.full((T, T), -math.inf, dtype=x.dtype).triu(1)
        if window := config.window(i):
            mask = mask + torch.full((T, T), -math.inf, dtype=x.dtype).tril(-window)
        y = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(D) + mask, dim=-1) @ v
        x = x + linear(y.transpose(1, 2).reshape(B, T, H * D), f"{b}.attention.output")
        z = norm(x, f"{b}.mlp_norm")
        if config.gated_mlp:
            h = activation(linear(z, f"{b}.mlp.gate")) * linear(z, f"{b}.mlp.up")
        else:
            h = activation(linear(z, f"{b}.mlp.up"))
        x = x + linear(h, f"{b}.mlp.down")
    return norm(x, "norm") @ p["token_embedding" if config.tied_head else "head"].T


def torch_parameters(model: Decoder, dtype=torch.float64) -> dict:
    return {n: torch.tensor(p.data, dtype=dtype, requires_grad=True) for n, p in model.parameters.items()}


def relative_error(x: np.ndarray, reference: np.ndarray) -> float:
    norm = float(np.linalg.norm(reference.astype(np.float64)))
    difference = float(np.linalg.norm(x - reference))
    return difference / norm if norm else difference


LLAMA = preset("gollm-85m").replace(n_layers=2, vocab_size=203, context=70)
CONFIGS = {
    "tiny": preset("tiny"),
    "llama": LLAMA.replace(n_heads=6, n_kv_heads=2, d_model=48, head_dim=8, d_ff=70),
    "llama3 scaling, untied, one kv head": LLAMA.replace(
        n_heads=3, n_kv_heads=1, d_model=30, head_dim=14, d_ff=41, tied_head=False, rope_theta=500.0,
        rope_scaling="llama3", rope_factor=8.0, rope_original_context=32,
    ),
    "linear scaling, qwen's biases, window": LLAMA.replace(
        n_heads=4, n_kv_heads=4, d_model=36, head_dim=20, d_ff=50, qkv_bias=True, rope_scaling="linear",
        rope_factor=2.5, sliding_window=19,
    ),
    "windows in two of four layers": LLAMA.replace(
        n_layers=4, n_heads=2, n_kv_heads=1, d_model=24, head_dim=12, d_ff=32, sliding_window=11, window_layers=(0, 2)
    ),
    "odd": ModelConfig(
        n_layers=3, n_heads=3, d_model=33, head_dim=7, d_ff=29, vocab_size=101, context=45, activation="gelu"
    ),
    "grouped, untied": ModelConfig(
        n_layers=2,
        n_heads=6,
        n_kv_heads=2,
        d_model=48,
        vocab_size=257,
        context=70,
        tied_head=False,
        bias=False,
        activation="silu",
    ),
    "wide heads": ModelConfig(
        n_layers=1, n_heads=2, d_model=40, head_dim=200, vocab_size=50, context=33, activation="relu"
    ),
}  # fmt: skip


def make(config: ModelConfig) -> Decoder:
    """Weights away from where they start: biases and norms too take part."""
    model = Decoder(config).initialise(5)
    generator = np.random.default_rng(6)
    for parameter in model.parameters.values():
        parameter.data[...] += generator.standard_normal(parameter.shape, dtype=np.float32) * np.float32(0.02)
    return model


def compare(config: ModelConfig, B: int, T: int) -> None:
    model = make(config)
    p = torch_parameters(model)
    generator = np.random.default_rng(7)
    ids, targets = generator.integers(0, config.vocab_size, (2, B, T)).astype(np.int32)
    targets[0, : T // 3] = -1
    logits = forward(p, config, torch.tensor(ids, dtype=torch.long))
    loss = F.cross_entropy(logits.flatten(0, 1), torch.tensor(targets, dtype=torch.long).flatten(), ignore_index=-1)
    loss.backward()
    assert relative_error(model.logits(ids), logits.detach().numpy()) <= TOLERANCE
    ours = model.loss(ids, targets)
    ours.backward()
    assert abs(ours.item() - loss.item()) <= TOLERANCE * loss.item()
    model.parameters.finish_gradients()
    for name, parameter in model.parameters.items():
        assert relative_error(parameter.grad, p[name].grad.numpy()) <= TOLERANCE, name


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_loss_and_gradients(name):
    config = CONFIGS[name]
    compare(config, 3, min(config.context, 33))
    compare(config, 1, config.context)
    compare(config, 2, 1)


@pytest.mark.slow
def test_gpt2_124m():
    compare(preset("d12"), 2, 64)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_ten_steps_give_the_same_losses(name, optimizer):
    config = CONFIGS[name]
    model = make(config)
    p = torch_parameters(model)
    groups = [
        {"params": [q for q in p.values() if q.ndim >= 2], "weight_decay": 0.1},
        {"params": [q for q in p.values() if q.ndim < 2], "weight_decay": 0.0},
    ]
    if optimizer == "adamw":
        theirs = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
        ours = AdamW(model.parameters, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, max_grad_norm=1.0)
    else:
        theirs = torch.optim.SGD(groups, lr=1e-3, momentum=0.9)
        ours = SGD(model.parameters, momentum=0.9, weight_decay=0.1, max_grad_norm=1.0)
    generator = np.random.default_rng(8)
    for step in range(10):
        ids, targets = generator.integers(0, config.vocab_size, (2, 3, 20)).astype(np.int32)
        lr = 1e-3 * (step + 1) / 10
        for group in theirs.param_groups:
            group["lr"] = lr
        theirs.zero_grad()
        logits = forward(p, config, torch.tensor(ids, dtype=torch.long))
        expected = F.cross_entropy(logits.flatten(0, 1), torch.tensor(targets, dtype=torch.long).flatten())
        expected.backward()
        expected_norm = torch.nn.utils.clip_grad_norm_(p.values(), 1.0).item()
        theirs.step()
        model.parameters.zero_grad()
        loss = model.loss(ids, targets)
        loss.backward()
        norm = ours.step(lr)
        assert abs(loss.item() - expected.item()) <= 1e-4
        assert norm == pytest.approx(expected_norm, rel=1e-4)
    for name_, parameter in model.parameters.items():
        ours_, theirs_ = parameter.data, p[name_].detach().numpy()
        if name_.endswith("qkv.bias"):
            # Softmax does not see the keys' bias: its gradient is zero, and Adam divides rounding errors by their size.
            keys = slice(config.n_heads * config.head_dim, (config.n_heads + config.n_kv_heads) * config.head_dim)
            ours_, theirs_ = np.delete(ours_, keys), np.delete(theirs_, keys)
        assert relative_error(ours_, theirs_) <= 1e-4, name_
