# %% [markdown]
# # 3. Train a transformer end to end
#
# This notebook goes from a text file to a model that writes: tokens, batches, a model, a training loop of fifteen
# lines, the loss curve, and a sample. Then the same with one call. The text is Shakespeare's plays, 1.1 MB. The model
# is tiny, so that everything runs in a minute on a laptop's CPU.

# %%
import os
from pathlib import Path

import altair as alt
import numpy as np

import gollm
from gollm.data import Sampler, Tokens, evaluation_batches, write_shard
from gollm.nn import AdamW, learning_rate
from gollm.tokenizers import BPETokenizer

alt.renderers.enable("png", scale_factor=1.5)
text = Path(os.environ.get("DATA", "."), "tinyshakespeare.txt").read_text()  # any text file of yours
print(len(text), "characters")
print(text[:150])

# %% [markdown]
# ## Tokens
#
# A model reads numbers. Byte-pair encoding starts with the 256 bytes and merges the most frequent neighbours again and
# again, until there are as many tokens as we ask for:

# %%
tokenizer = BPETokenizer.train([text], 512, special_tokens=["<|endoftext|>"])
ids = tokenizer.encode(text)
print(f"{len(text)} characters, {len(ids)} tokens: {len(text) / len(ids):.2f} characters each")
print([tokenizer.decode([i]) for i in tokenizer.encode("Shall I compare thee to a summer's day?")])

# %% [markdown]
# The last tenth is kept for validation: the model never trains on it. Tokens lie in a file, from which batches are read
# as they are needed.

# %%
write_shard("shakespeare.bin", ids, tokenizer.vocab_size)
tokens = Tokens.open(["shakespeare.bin"])
cut = len(tokens) * 9 // 10
training, validation = tokens.part([(0, cut)]), tokens.part([(cut, len(tokens))])

B, T = 8, 64
sampler = Sampler(training, batch_size=B, context=T, seed=1)
inputs, targets = sampler.next_batch()
print("inputs ", inputs.shape, repr(tokenizer.decode(inputs[0, :12])))
print("targets", targets.shape, repr(tokenizer.decode(targets[0, :12])))

# %% [markdown]
# Targets are the inputs moved by one token: at each of the 64 positions the model predicts what comes next, so a batch
# has 512 predictions.
#
# ## A model
#
# Two blocks, 64 wide, in the manner of LLaMA: rotary positions, RMSNorm, a gated MLP, no biases.

# %%
config = gollm.ModelConfig(
    n_layers=2,
    n_heads=4,
    d_model=64,
    d_ff=192,
    vocab_size=tokenizer.vocab_size,
    context=T,
    position="rope",
    norm="rmsnorm",
    gated_mlp=True,
    activation="silu",
    bias=False,
)
model = gollm.Decoder(config).initialise(seed=1)
print(f"{model.parameters.n_parameters:,} parameters in {len(model.parameters)} tensors")

before = model.loss(inputs, targets).item()
print(f"loss before training {before:.3f}; guessing each token alike would be {np.log(tokenizer.vocab_size):.3f}")

# %% [markdown]
# ## The loop
#
# A step: get a batch, compute the loss and its gradients, update the weights. The gradients' part is a plan, which is
# recorded once and replayed natively. The learning rate rises for 20 steps and then falls along a cosine. The optimiser
# clips the gradients' norm to 1.

# %%
optimizer = AdamW(model.parameters, weight_decay=0.1)


def gradients(inputs, targets):
    model.parameters.zero_grad()
    loss = model.loss(inputs, targets)
    loss.backward()
    return loss


def validation_loss():
    with gollm.no_grad():
        return float(np.mean([model.loss(x, y).item() for x, y in evaluation_batches(validation, B, T, 20)]))


STEPS = 400
plan, history = gollm.Plan(gradients), []
for step in range(1, STEPS + 1):
    loss = plan(*sampler.next_batch()).item()
    lr = learning_rate(step, schedule="cosine", peak=4e-3, minimum=4e-4, warmup_steps=20, total_steps=STEPS)
    norm = optimizer.step(lr)
    history.append({"step": step, "loss": loss, "what": "training", "lr": lr, "norm": float(norm)})
    if step % 50 == 0:
        history.append({"step": step, "loss": validation_loss(), "what": "validation"})
        print(f"step {step:3}: training {loss:.3f}, validation {history[-1]['loss']:.3f}, norm {norm:.2f}")

# %%
alt.Chart(alt.Data(values=history)).mark_line().encode(
    x="step:Q", y=alt.Y("loss:Q", scale=alt.Scale(zero=False)), color=alt.Color("what:N", title=None)
).properties(width=420, height=240)

# %% [markdown]
# The training loss jumps from batch to batch, since each batch is another piece of text. The validation loss is the
# mean of fixed batches. As long as it falls, the model learns something that holds for text that it has not seen.
#
# ## What it writes

# %%
shakespeare = gollm.LanguageModel(model, tokenizer)
print(shakespeare.generate("ROMEO:", max_new_tokens=120, temperature=0.8, top_k=40, seed=1))

# %% [markdown]
# After 400 steps of 512 tokens it has words, names and lines. It has seen less than half of the text once.
# `shakespeare.save("model.golm")` keeps it, with its tokenizer.
#
# ## The same with one call
#
# `gollm.train` does all of this, and what a real run needs beside it: a log, checkpoints from which a run resumes to
# the same bits, a cache of tokens, samples, mixed batches.

# %%
options = gollm.TrainOptions(
    data=(str(Path(os.environ.get("DATA", "."), "tinyshakespeare.txt")),),
    vocab_size=512,
    n_layers=2,
    n_heads=4,
    d_model=64,
    context=T,
    batch_size=B,
    lr=4e-3,
    steps=100,
    eval_every=50,
    sample_tokens=0,
    out="runs/shakespeare",
)
result = gollm.train(options)
print(sorted(path.name for path in Path("runs/shakespeare").iterdir()))

# %% [markdown]
# On the command line: `gollm train tinyshakespeare.txt --n-layers 2 ...`. [docs/training.md](../docs/training.md) has
# the options, page 4 of the course what to do when the loss does not fall.
#
# Next: [look inside a trained model](04-look-inside-a-model.ipynb).
