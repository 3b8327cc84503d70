"""Fine-tuning: a model that can already write learns to do something.

gollm.finetune(options)     the whole job, as `gollm finetune` does it, by the trainer of gollm.training

lessons.py          the formats of conversations
rendering.py        conversations as token ids, and which of them count
padding.py          batches of sequences of different lengths
"""
