"""What PyTorch does in its turn, as its users write it: MKL's or oneDNN's products, fused attention, fused AdamW."""

import torch
from torch import nn
from torch.nn import functional as F


def random(*shape):
    return torch.rand(shape) - 0.5


def matmul(layout, M, N, K):
    """c (M, N) = op(a) op(b)"""
    a = random(K, M).t() if layout == "TN" else random(M, K)
    b = random(N, K).t() if layout == "NT" else random(K, N)
    c = torch.ones(M, N)
    return lambda: torch.mm(a, b, out=c), 4 * (M * K + K * N + M * N)


def head(N, C, V):
    """Loss and both gradients through autograd.  x (N, C), w (V, C)"""
    x, w = random(N, C).requires_grad_(), (0.04 * random(V, C)).requires_grad_()
    targets = torch.randint(V, (N,))

    def call():
        x.grad = w.grad = None
        F.cross_entropy(x @ w.T, targets).backward()

    return call, 4 * (2 * N * C + 2 * V * C)


def attention(B, T, H, G, D, backward):
    """From the rows that the projection leaves, q | k | v, to the rows that the next one takes."""
    qkv = random(B, T, (H + 2 * G) * D).requires_grad_()
    dy = random(B, T, H * D)

    def forward():
        q, k, v = (x.unflatten(-1, (-1, D)).transpose(1, 2) for x in qkv.split([H * D, G * D, G * D], -1))
        if G < H:
            k, v = (x.repeat_interleave(H // G, 1) for x in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).reshape(B, T, H * D)

    y = forward()
    n_bytes = 4 * B * T * D * (2 * H + 2 * G)
    if not backward:
        return forward, n_bytes
    return lambda: torch.autograd.grad(y, qkv, dy, retain_graph=True), 2 * n_bytes


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).  (B, T, C) -> (B, T, C)"""

    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.output = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x):
        B, T, C = x.shape
        heads = [y.view(B, T, self.n_heads, -1).transpose(1, 2) for y in self.qkv(self.attention_norm(x)).split(C, 2)]
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.output(y.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class GPT(nn.Module):
    """(B, T) token ids and targets -> mean cross-entropy; the head's weights are the token embedding's."""

    def __init__(self, n_layers, n_heads, d_model, vocab_size, context):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(context, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                residual = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / (2 * n_layers) ** 0.5 if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.tokens.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class LlamaBlock(nn.Module):
    """The same with RMSNorm, rotated queries and keys, grouped heads and SwiGLU."""

    def __init__(self, d_model, d_ff, n_heads, n_kv_heads, head_dim):
        super().__init__()
        self.sizes, self.head_dim = [n * head_dim for n in (n_heads, n_kv_heads, n_kv_heads)], head_dim
        self.attention_norm, self.mlp_norm = nn.RMSNorm(d_model, 1e-5), nn.RMSNorm(d_model, 1e-5)
        self.qkv = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.output = nn.Linear(self.sizes[0], d_model, bias=False)
        self.gate, self.up = (nn.Linear(d_model, d_ff, bias=False) for _ in range(2))
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x, cos, sin):
        heads = self.qkv(self.attention_norm(x)).split(self.sizes, 2)
        q, k, v = (y.unflatten(2, (-1, self.head_dim)).transpose(1, 2) for y in heads)
        q, k = (y * cos + torch.cat((-y.chunk(2, -1)[1], y.chunk(2, -1)[0]), -1) * sin for y in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.output(y.transpose(1, 2).flatten(2))
        z = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(z)) * self.up(z))


class Llama(nn.Module):
    """(B, T) token ids and targets -> mean cross-entropy, of a configuration with the LLaMA family's parts."""

    def __init__(self, n_layers, n_heads, n_kv_heads, head_dim, d_model, d_ff, vocab_size, context, rope_theta, **rest):
        super().__init__()
        self.tokens, self.norm = nn.Embedding(vocab_size, d_model), nn.RMSNorm(d_model, 1e-5)
        self.blocks = nn.ModuleList(LlamaBlock(d_model, d_ff, n_heads, n_kv_heads, head_dim) for _ in range(n_layers))
        angles = torch.arange(context)[:, None] * rope_theta ** (-torch.arange(0, head_dim, 2) / head_dim)
        self.cos, self.sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                residual = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / (2 * n_layers) ** 0.5 if residual else 0.02)

    def forward(self, ids, targets):
        x = self.tokens(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.norm(x) @ self.tokens.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_optimizer(model, lr=1e-3):
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), fused=True)


def training(batch_size, compiled=False, compute_dtype="float32", **shape):
    """A step on random tokens: forward, backward, clipping, update, and the gradients away. Of bfloat16: under
    autocast, as PyTorch's users train."""
    torch.manual_seed(0)
    model = Llama(**shape) if shape.get("position") == "rope" else GPT(**shape)
    optimizer = make_optimizer(model)
    forward = torch.compile(model) if compiled else model
    ids, targets = torch.randint(shape["vocab_size"], (2, batch_size, shape["context"]))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=compute_dtype == "bfloat16"):
            loss = forward(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step, 1 << 30  # one of it, as of gollm's: a step comes from where the last one left
