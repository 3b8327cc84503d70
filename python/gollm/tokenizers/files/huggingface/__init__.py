"""Hugging Face's tokenizer.json."""
