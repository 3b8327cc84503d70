"""peft's and PyTorch's side of bench/finetuning.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForCausalLM


def training(
    folder: str, method: str, compute: str, rates: Sequence[float], base: str, head: str
) -> tuple[Callable[[], float], int]:
    """Each call is a step and returns its loss; the first one changes nothing."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="sdpa")
    decoder, vocabulary = model.model, model.lm_head
    if method == "lora":
        model = PeftModel.from_pretrained(model, Path(folder) / "adapter", is_trainable=True)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True)
    with np.load(Path(folder) / "batches.npz") as file:
        arrays = [torch.tensor(file[name].astype(np.int64)) for name in file.files]

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if head == "by hand":
            counted = targets != -1
            logits = vocabulary(decoder(input_ids=inputs, use_cache=False).last_hidden_state[counted])
            return functional.cross_entropy(logits.float(), targets[counted])
        # The targets are those of the next position already: transformers is told so.
        labels = torch.where(targets == -1, -100, targets)
        return model(input_ids=inputs, labels=labels, shift_labels=labels, use_cache=False).loss

    def steps() -> Iterator[float]:
        for i, (inputs, targets) in enumerate(zip(arrays[::2], arrays[1::2], strict=True)):
            with torch.autocast("cpu", torch.bfloat16, enabled=compute == "bfloat16"):
                loss = loss_of(inputs, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            if i > 0:
                for group in optimizer.param_groups:
                    group["lr"] = rates[i - 1]
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield loss.item()

    return steps().__next__, 1 << 30
