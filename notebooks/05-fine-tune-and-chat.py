# %% [markdown]
# # 5. Fine-tune and chat
#
# This notebook takes a model that can only tell stories, teaches it to answer a request, and talks with it: once with
# all weights trained, once with an adapter (LoRA). It goes with page 9 of the course.
#
# The model is stories260K of llama2.c, with 260 thousand parameters: `stories260K.bin` and `tok512.bin` of
# [karpathy/tinyllamas](https://huggingface.co/karpathy/tinyllamas).

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
BASE = Path(os.environ.get("DATA", "."), "stories260K.bin")
base = gollm.load(BASE)
print(base.generate("Greet Tom at night, coldly", max_new_tokens=60, temperature=0))

# %% [markdown]
# Asked for a greeting, it tells a story.
#
# ## Requests and answers
#
# 90 combinations of a person, a time and a mood. 70 are for training; 20 are kept to see whether the task was learnt or
# the answers:

# %%
people = ["Lily", "Tom", "Ben", "Sue", "Max", "Mia", "Tim", "Anna", "Sam", "Lucy"]
times = {"in the morning": "Good morning", "at noon": "Good day", "at night": "Good night"}
moods = {"kindly": ", my friend.", "coldly": ", my foe.", "briefly": "."}
tasks = list(itertools.product(people, times, moods))
random.Random(1).shuffle(tasks)


def record(person, time, mood):
    return {"prompt": f"Greet {person} {time}, {mood}", "completion": f"{times[time]}, {person}{moods[mood]}"}


for file, part in (("train.jsonl", tasks[:70]), ("test.jsonl", tasks[70:])):
    Path(file).write_text("".join(json.dumps(record(*task)) + "\n" for task in part))
print(record(*tasks[-1]))

# %% [markdown]
# Only the answer's tokens count in the loss. Full fine-tuning first, then an adapter of rank 8 on the frozen base:

# %%
common = {
    "model": BASE,
    "data": ("train.jsonl",),
    "validation_data": ("test.jsonl",),
    "steps": 80,
    "batch_size": 16,
    "eval_every": 10,
    "sample_tokens": 0,
}
full = gollm.finetune(gollm.FinetuneOptions(**common, lr=1e-3, out="full"))
lora = gollm.finetune(gollm.FinetuneOptions(**common, lr=6e-3, lora_rank=8, out="lora"))
print(f"validation loss: all weights {full.validation_loss:.4f}, adapter {lora.validation_loss:.4f}")

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
# A `Conversation` keeps the turns, and the cache of keys and values that they have in common. Answers come piece by
# piece. This model was trained on single requests, so each one begins a new conversation:

# %%
chat = gollm.Conversation(gollm.load("full"), gollm.Sampling(temperature=0, max_new_tokens=40))
for message in ("Greet Mia at noon, kindly", "Greet Ben in the morning, coldly", "Greet Zoe at night, briefly"):
    print(">", message)
    for text in chat.say(message):
        print(text, end="", flush=True)
    print()
    chat.reset()

# %% [markdown]
# Zoe was in no request. The model begins to copy the name and then loses it: it has learnt a list of names, and the
# beginning of a rule. More names in the data would teach the rule.
#
# ## What it has forgotten
#
# The tuned models on stories that the base told, beside the base itself:

# %%
stories = Texts([base.generate("Once upon a time", seed=seed, max_new_tokens=200) for seed in range(10)])
for name, model in (("base", base), ("full", gollm.load("full")), ("lora", gollm.load("lora"))):
    found = evaluate_model(model, stories, context=128)
    print(f"{name}: {found.cross_entropy.value:.2f} nats a token, perplexity {found.perplexity.value:.1f}")

# %% [markdown]
# Greetings came in, stories went out. Page 9 has the remedies. From here:
#
# - `gollm chat full` talks with the model at the terminal;
# - `gollm quantize` makes it smaller, page 8 says how;
# - [docs/finetuning.md](../docs/finetuning.md) has preferences (DPO), classification and all options.
