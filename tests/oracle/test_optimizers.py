"""AdamW, SGD and clipping give PyTorch's numbers, over several steps, decayed and undecayed parameters together."""

import numpy as np
import pytest

from gollm import _native

torch = pytest.importorskip("torch")

STEPS, N, N_DECAY, LR, DECAY, MAX_NORM = 10, 1000, 600, 0.01, 0.1, 20.0


def steps_of_torch(make, start, gradients):
    decayed, other = (torch.tensor(part, requires_grad=True) for part in (start[:N_DECAY], start[N_DECAY:]))
    groups = [{"params": [decayed], "weight_decay": DECAY}, {"params": [other], "weight_decay": 0.0}]
    optimizer = make(groups)
    for g in gradients:
        decayed.grad, other.grad = torch.tensor(g[:N_DECAY]), torch.tensor(g[N_DECAY:])
        torch.nn.utils.clip_grad_norm_([decayed, other], MAX_NORM)
        optimizer.step()
    return torch.cat([decayed, other]).detach().numpy()


def steps_of_gollm(kernel, start, gradients, **options):
    w, lr, norm, scale = start.copy(), np.array([LR]), np.empty(1), np.empty(1)
    moments = {name: np.zeros_like(w) for name in options.pop("moments")}
    for i, g in enumerate(gradients, 1):
        _native.gradient_norm(norm=norm, scale=scale, g=g, max_norm=MAX_NORM)
        step = {"step": np.array([i])} if kernel is _native.adamw else {}
        kernel(w=w, g=g, lr=lr, grad_scale=scale, weight_decay=DECAY, n_decay=N_DECAY, **moments, **step, **options)
    return w


@pytest.fixture
def problem(request):
    rng = np.random.default_rng(3)
    start = rng.standard_normal(N)
    gradients = rng.standard_normal((STEPS, N)) * np.linspace(0.1, 2, STEPS)[:, None]  # some steps are clipped
    return start, gradients


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-12)])
def test_adamw(problem, dtype, tolerance):
    start, gradients = (array.astype(dtype) for array in problem)
    betas = {"beta1": 0.9, "beta2": 0.95}
    ours = steps_of_gollm(_native.adamw, start, gradients, moments="mv", eps=1e-8, **betas)
    theirs = steps_of_torch(
        lambda groups: torch.optim.AdamW(groups, lr=LR, betas=tuple(betas.values()), eps=1e-8), start, gradients
    )
    assert np.abs(ours - theirs).max() <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-12)])
def test_sgd(problem, dtype, tolerance):
    start, gradients = (array.astype(dtype) for array in problem)
    ours = steps_of_gollm(_native.sgd, start, gradients, moments="m", momentum=0.9)
    theirs = steps_of_torch(lambda groups: torch.optim.SGD(groups, lr=LR, momentum=0.9), start, gradients)
    assert np.abs(ours - theirs).max() <= tolerance
