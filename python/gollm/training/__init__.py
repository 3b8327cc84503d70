"""Training: options, the loop, and the run folder that survives a crash at any moment.

gollm.train(options)                           the whole job, as `gollm train` does it
gollm.Trainer(model, tokenizer, options).fit   the loop alone, for a model that a program made
"""

from gollm.training.callbacks import Callback, Training, TrainResult
from gollm.training.job import Job, prepare_job
from gollm.training.run import Run

__all__ = ["Callback", "Job", "Run", "TrainResult", "Training", "prepare_job"]
