"""Training: options, the loop, and the run folder that survives a crash at any moment.

train(options)                           the whole job, as `gollm train` does it
Trainer(model, tokenizer, options).fit   the loop alone, for a model that a program made
"""

from gollm.training.callbacks import Callback, Training, TrainResult
from gollm.training.job import Job, prepare_job, train
from gollm.training.options import TrainOptions
from gollm.training.trainer import Trainer

__all__ = ["Callback", "Job", "TrainOptions", "TrainResult", "Trainer", "Training", "prepare_job", "train"]
