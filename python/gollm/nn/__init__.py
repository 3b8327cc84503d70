"""Tensors, the tape, the operations, parameters and optimisers: what a model is made of and trained with."""
