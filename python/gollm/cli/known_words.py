"""What people who know other programs write, and what gollm has instead."""

from __future__ import annotations

from collections.abc import Collection

_METRICS = (
    "gollm report draws the curves of runs, and in Python the callbacks of gollm.training.trackers send metrics to "
    "TensorBoard, trackio and wandb"
)
_HALF = (
    ("compute_dtype", "--compute-dtype bfloat16 computes in 16 bits, and with --device cuda so does --dtype bfloat16"),
    ("dtype", "with --device cuda, --dtype bfloat16 computes in 16 bits; gollm quantize stores a model in them"),
)
_GPU = (("device", "--device cuda computes on a GPU"), ("", "this command computes on the CPU"))
_COMPILED = (("", "nothing is left to compile: the kernels are compiled, and each step is recorded and replayed"),)
_QUANTIZE = (("", "gollm quantize stores a model in 8 or 4 bits, and every command takes such a model"),)

# flag -> (an option that the command must have, or "", what there is instead); the first that applies
_FLAGS: dict[str, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(("gpu", "gpus", "cuda", "use_gpu", "use_cuda", "ngl", "n_gpu_layers"), _GPU),
    "cpu": (("device", "--device cpu computes on the CPU"), ("", "this command computes on the CPU")),
    **dict.fromkeys(("compile", "torch_compile"), _COMPILED),
    **dict.fromkeys(("wandb", "wandb_log", "use_wandb", "tensorboard", "mlflow", "report_to"), (("", _METRICS),)),
    **dict.fromkeys(("fp16", "bf16", "half", "amp", "mixed_precision", "autocast"), _HALF),
    **dict.fromkeys(("load_in_8bit", "load_in_4bit", "int8", "int4"), _QUANTIZE),
    **dict.fromkeys(
        ("gradient_checkpointing", "grad_checkpointing", "activation_checkpointing"),
        (("recompute", "--recompute block keeps the least for the backward pass"),),
    ),
    **dict.fromkeys(
        ("flash", "flash_attn", "flash_attention"), (("", "attention never stores its scores, without a flag"),)
    ),
    **dict.fromkeys(
        ("num_workers", "workers", "num_proc"), (("", "--threads sets the number of threads of the kernels"),)
    ),
    **dict.fromkeys(
        ("init_from", "finetune", "pretrained"), (("resume", "gollm finetune goes on from a model that is there"),)
    ),
    **dict.fromkeys(("greedy", "do_sample"), (("temperature", "--temperature 0 always takes the likeliest token"),)),
    **dict.fromkeys(("stream", "streaming"), (("echo", "text is printed as it is generated, without a flag"),)),
}

_COMMANDS = {
    **dict.fromkeys(("sample", "complete", "completion", "infer", "inference", "predict", "run"), "generate"),
    **dict.fromkeys(("fine-tune", "sft", "dpo", "lora"), "finetune"),
    **dict.fromkeys(("evaluate", "perplexity", "test"), "eval"),
    **dict.fromkeys(("download", "fetch"), "pull"),
    **dict.fromkeys(("export", "import"), "convert"),
    **dict.fromkeys(("tokenize", "tokenise"), "tokenizer encode"),
    **dict.fromkeys(("detokenize", "detokenise"), "tokenizer decode"),
    **dict.fromkeys(("benchmark", "speed"), "bench"),
    **dict.fromkeys(("show", "describe"), "info"),
    **dict.fromkeys(("quantise", "quant"), "quantize"),
}


def instead_of_flag(name: str, options: Collection[str]) -> str | None:
    """What a command with these options has instead of a flag, which is named with underscores."""
    return next((said for needed, said in _FLAGS.get(name, ()) if not needed or needed in options), None)


def instead_of_command(word: str) -> str | None:
    """The command that does what another program's command of that name does."""
    return _COMMANDS.get(word)
