"""llama2.c's int8 files: the bytes that its exporter, which is written in PyTorch, makes of the same weights."""

import io

import numpy as np
import pytest

from gollm.formats.flat.llama2c import Int8Groups

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("scale", [1e-38, 1e-3, 1.0, 1e30])  # the first has scales below the smallest normal float
@pytest.mark.parametrize("group", [4, 64])
def test_int8_as_pytorch_rounds_it(scale, group):
    values = (scale * np.random.default_rng(0).standard_normal(1 << 17)).astype(np.float32)
    values[: 2 * group] = scale * (np.arange(2 * group) % 255 - 127) / 2  # halves of a step: ties
    w = torch.tensor(values).reshape(-1, group)
    scales = w.abs().max(dim=1).values / 127.0
    expected = torch.round(w / scales[:, None]).to(torch.int8).numpy().tobytes() + scales.numpy().tobytes()
    file = io.BytesIO()
    Int8Groups(group).write(file, values)
    assert file.getvalue() == expected
    file.seek(0)
    back = np.empty_like(values)
    Int8Groups(group).read(file, back)
    assert np.array_equal(back, (torch.round(w / scales[:, None]) * scales[:, None]).numpy().reshape(-1))
