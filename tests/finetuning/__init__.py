"""Before bench/finetuning.py, which has the same name."""
