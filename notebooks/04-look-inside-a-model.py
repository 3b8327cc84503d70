# %% [markdown]
# # 4. Look inside a trained model
#
# This notebook asks a trained model what it has learnt: which tokens it takes for alike, where it is surprised, what
# each layer believes, where its heads look, and which heads it needs. The model is the one that comes with gollm: 1.8
# million parameters, trained on Shakespeare's plays. The same pictures of any model are drawn by `gollm visualize`,
# `gollm embeddings` and `gollm inspect`.

# %%
import subprocess

import altair as alt
import numpy as np
from IPython.display import Image

import gollm
from gollm.model import Batch

alt.renderers.enable("png", scale_factor=1.5)
language_model = gollm.load("shakespeare", dequantise=True)  # its weights are stored in 8 bits; here they are float32
model, tokenizer = language_model.decoder, language_model.tokenizer
print(model)
print(language_model.generate("ROMEO:", max_new_tokens=60, temperature=0.8, seed=1))

# %% [markdown]
# ## Which tokens are alike
#
# Each token is a vector of 192 numbers, a row of the embedding. Nobody told the model what tokens mean. Tokens that
# appear in like places have got like vectors. "␣" is a space:

# %%
table = model.token_embedding.data[: tokenizer.vocab_size]
unit = table / np.linalg.norm(table, axis=1, keepdims=True)


def piece(token):
    return repr(tokenizer.decode([int(token)]).replace(" ", "␣"))[1:-1]


for word in (" my", " he", " will", "?", "ing", "A"):
    (token,) = tokenizer.encode(word)
    nearest = np.argsort(-(unit @ unit[token]))[1:7]
    print(f"{piece(token):6} {'  '.join(piece(t) for t in nearest)}")

# %% [markdown]
# ## Where it is surprised
#
# The surprisal of a token is −log₂ of its probability: 0 bits if it was certain, 10 bits if the model could only guess
# among 512 tokens.

# %%
line = "ROMEO:\nWhat is the matter with the king of France?\n"
ids = tokenizer.encode(line)
logits = model.logits(ids[None])[0].astype(np.float64)
log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
surprisal = -log_p[np.arange(len(ids) - 1), ids[1:]] / np.log(2)
rows = [
    {"place": i + 1, "token": f"{i + 1} {piece(t)}", "bits": float(b)}
    for i, (t, b) in enumerate(zip(ids[1:], surprisal, strict=True))
]
alt.Chart(alt.Data(values=rows)).mark_bar(color="#0072b2").encode(
    x=alt.X("token:N", sort=None, title=None, axis=alt.Axis(labelAngle=-60)), y=alt.Y("bits:Q", title="surprisal, bits")
).properties(width=520, height=180)

# %% [markdown]
# The colon and the new line after a name are certain, and so is the rest of "France" after its first letter. Most bits
# go to the beginnings of words.
#
# ## What each layer believes
#
# The blocks add to a stream of vectors, from the embedding to the last norm. The head turns the end of the stream into
# logits. Nothing forbids us to show it the stream earlier; this is called the *logit lens*:

# %%
batch = Batch.of_sequences(ids[None])
cells = []
with gollm.no_grad():
    for layer, stream in enumerate(model.residual_stream(batch)):
        guesses = model.head_logits(model.norm(stream), range(len(ids))).data.astype(np.float64)
        p = np.exp(guesses - guesses.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        for i in range(len(ids)):
            best = int(p[i].argmax())
            name = "embedding" if layer == 0 else f"block {layer}"
            cells.append({"read": f"{i} {piece(ids[i])}", "after": name, "guess": piece(best), "p": float(p[i, best])})

base = alt.Chart(alt.Data(values=cells)).encode(
    x=alt.X("read:N", sort=None, title="token read", axis=alt.Axis(labelAngle=-60)),
    y=alt.Y("after:N", sort=None, title=None),
)
(
    base.mark_rect().encode(color=alt.Color("p:Q", scale=alt.Scale(scheme="blues", domain=[0, 1]), title="probability"))
    + base.mark_text(fontSize=9).encode(
        text="guess:N", color=alt.condition("datum.p > 0.6", alt.value("white"), alt.value("black"))
    )
).properties(width=760, height=120)

# %% [markdown]
# Read a column from top to bottom. The head of this model is its embedding, so the first guess is the token that was
# just read. Block by block it turns into a guess at the token that follows: after " F" comes "r", and then "ance".
#
# ## Where the heads look
#
# `gollm visualize` draws the attention weights of a prompt, as a page to click through or as an image. Brighter is more
# weight. Rollout, at the right, follows attention through all layers up to this one.

# %%
command = ["gollm", "visualize", "shakespeare", "--prompt", line.strip(), "--output", "attention.png", "--layer", "1"]
print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
Image("attention.png", width=760)

# %% [markdown]
# ## Which heads it needs
#
# Switch a head off, by making its columns of the output projection zero, and measure the loss on a sonnet, which is in
# none of the plays:

# %%
sonnet = """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date;
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance or nature's changing course untrimm'd;
But thy eternal summer shall not fade,
Nor lose possession of that fair thou ow'st;
Nor shall death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st:
So long as men can breathe or eyes can see,
So long lives this, and this gives life to thee.
"""
tokens = tokenizer.encode(sonnet)[None, : model.config.context + 1]
inputs, targets = np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])


def loss():
    with gollm.no_grad():
        return model.loss(inputs, targets).item()


whole, D, rows = loss(), model.config.head_dim, []
for layer, block in enumerate(model.blocks):
    weight = block.attention.output.weight.data
    for h in range(model.config.n_heads):
        columns = slice(h * D, (h + 1) * D)
        kept = weight[:, columns].copy()
        weight[:, columns] = 0
        rows.append({"block": f"block {layer + 1}", "head": h + 1, "more loss": loss() - whole})
        weight[:, columns] = kept
print(f"loss {whole:.3f} with all heads; the most important one is worth {max(row['more loss'] for row in rows):.3f}")
assert loss() == whole  # everything is as it was
alt.Chart(alt.Data(values=rows)).mark_bar(color="#0072b2").encode(
    x=alt.X("head:O"), y=alt.Y("more loss:Q", title="loss without it, more"), column=alt.Column("block:N", title=None)
).properties(width=140, height=160)

# %% [markdown]
# Heads are not equal. Some are worth nothing on this text, or less; many can be removed from large models with hardly
# any loss. A few do something that can be named: one looks at the token before, another finds where the present token
# was seen last and looks at what followed there.
#
# Next: [fine-tune and chat](05-fine-tune-and-chat.ipynb).
