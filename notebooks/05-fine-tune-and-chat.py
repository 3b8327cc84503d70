# %% [markdown]
# # 5. Fine-tune and chat
#
# This notebook trains a small model on Shakespeare, teaches it to answer a request, and talks with it: with all weights
# trained, and with an adapter (LoRA). It goes with page 9 of the course.

# %%
import itertools
import json
import os
import random
from pathlib import Path

import altair as alt

import gollm
from gollm.data import Texts
from gollm.evaluation import evaluate_model

alt.renderers.enable("png", scale_factor=1.5)
TEXT = Path(os.environ.get("DATA", "."), "tinyshakespeare.txt")  # any text file of yours

# %% [markdown]
# ## A base model
#
# It learns to continue plays, nothing else:

# %%
options = gollm.TrainOptions(
    data=(str(TEXT),),
    vocab_size=512,
    n_layers=2,
    n_heads=4,
    d_model=64,
    context=128,
    d_ff=192,
    position="rope",
    norm="rmsnorm",
    gated_mlp=True,
    activation="silu",
    bias=False,
    batch_size=8,
    lr=3e-3,
    steps=200,
    eval_every=100,
    sample_tokens=0,
    out="base",
)
gollm.train(options)
base = gollm.load("base")
print(base.generate("Greet Hamlet at night, coldly", max_new_tokens=30, temperature=0.8, seed=1))

# %% [markdown]
# Asked for a greeting, it goes on with a play.
#
# ## Requests and answers
#
# 90 combinations of a person, a time and a mood. 70 are for training; 20 are kept to see whether the task was learnt or
# the answers:

# %%
people = ["Romeo", "Juliet", "Hamlet", "Ophelia", "Brutus", "Cassius", "Cordelia", "Edmund", "Viola", "Orlando"]
times = {"in the morning": "Good morrow", "at noon": "Good day", "at night": "Good night"}
moods = {"kindly": ", my friend.", "coldly": ", my foe.", "briefly": "."}
tasks = list(itertools.product(people, times, moods))
random.Random(1).shuffle(tasks)


def record(person, time, mood):
    return {"prompt": f"Greet {person} {time}, {mood}", "completion": f"{times[time]}, {person}{moods[mood]}"}


for file, part in (("train.jsonl", tasks[:70]), ("test.jsonl", tasks[70:])):
    Path(file).write_text("".join(json.dumps(record(*task)) + "\n" for task in part))
print(record(*tasks[-1]))

# %% [markdown]
# Only the answer's tokens count in the loss. Full fine-tuning first, then an adapter of rank 4 on the frozen base:

# %%
common = {
    "model": "base/best.golm",
    "data": ("train.jsonl",),
    "validation_data": ("test.jsonl",),
    "steps": 150,
    "batch_size": 16,
    "eval_every": 25,
    "sample_tokens": 0,
}
gollm.finetune(gollm.FinetuneOptions(**common, lr=3e-3, out="full"))

# %%
gollm.finetune(gollm.FinetuneOptions(**common, lr=1e-2, lora_rank=4, out="lora"))

# %%
rows = []
for run in ("full", "lora"):
    for line in map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines()):
        if "validation_loss" in line:
            rows.append({"step": line["step"], "validation loss": line["validation_loss"], "run": run})
alt.Chart(alt.Data(values=rows)).mark_line(point=True).encode(
    x="step:Q", y=alt.Y("validation loss:Q", scale=alt.Scale(type="log")), color="run:N"
).properties(width=380, height=220)

# %% [markdown]
# ## The answers
#
# For the 20 requests that no model has seen:

# %%
for run in ("full", "lora"):
    tuned = gollm.load(run)
    right = 0
    for task in tasks[70:]:
        wanted = record(*task)
        said = tuned.chat([{"role": "user", "content": wanted["prompt"]}], temperature=0, max_new_tokens=40)
        right += said.strip() == wanted["completion"]
    (weights,) = [path for name in ("best.golm", "adapter/*.safetensors") for path in Path(run).glob(name)]
    print(f"{run}: {right} of {len(tasks[70:])} right; {weights} has {weights.stat().st_size:,} bytes")

# %% [markdown]
# The adapter is a small file beside a model that stays as it was.
#
# ## A conversation
#
# `Conversation` keeps the turns, and the cache of keys and values that they have in common. Answers come piece by
# piece:

# %%
chat = gollm.Conversation(gollm.load("full"), gollm.Sampling(temperature=0, max_new_tokens=40))
for message in ("Greet Ophelia at noon, kindly", "Greet Brutus in the morning, coldly"):
    print(">", message)
    for text in chat.say(message):
        print(text, end="", flush=True)
    print()
    chat.reset()  # the model was trained on single requests

# %% [markdown]
# ## What it has forgotten
#
# The tuned model on the plays, beside the base. The loss is measured on the same text:

# %%
plays = Texts([TEXT.read_text()[-40000:]])
for name in ("base", "full", "lora"):
    found = evaluate_model(gollm.load(name), plays, context=64)
    print(f"{name:5} {found.cross_entropy.value:.2f} nats a token, {found.bits_per_byte.value:.2f} bits a byte")

# %% [markdown]
# Whoever learns greetings only, forgets the plays. Page 9 has the remedies. From here:
#
# - `gollm chat full` talks with the model at the terminal;
# - `gollm quantize` makes it smaller, page 8 says how;
# - [docs/finetuning.md](../docs/finetuning.md) has preferences (DPO), classification and all options.
