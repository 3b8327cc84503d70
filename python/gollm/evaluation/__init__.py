"""How good a model is on a text: its perplexity, and how far it is from another model's predictions.

token_scores.py  the log-probability of each token, window by window
statistics.py    means and quantiles of such values, with standard errors
quality.py       the figures of `gollm eval`
continuations.py, choices.py   multiple-choice questions, by the log-probabilities of continuations
core_tasks.py, core.py   the CORE metric over a folder of tasks
answers.py       generated answers beside those of a data set
memorisation.py  how much of a text a model recites
classification.py  the labels that a classifier tells
harness.py       a model for lm-evaluation-harness
"""

from gollm.evaluation.answers import AnswerResult, Asked, answer_all, distinct, repetition
from gollm.evaluation.choices import ChoiceResult, Question, answer_questions
from gollm.evaluation.classification import Classification, classify, judged
from gollm.evaluation.core import CoreResult, CoreTaskResult, evaluate_core
from gollm.evaluation.core_tasks import CoreItem, CoreTask, read_core_tasks
from gollm.evaluation.memorisation import MemorizationResult, memorization
from gollm.evaluation.quality import Comparison, Evaluation, PositionLoss, evaluate_model
from gollm.evaluation.statistics import Figure, mean, quantile, standard_error
from gollm.evaluation.token_scores import TokenScores, score_tokens

__all__ = [
    "AnswerResult",
    "Asked",
    "ChoiceResult",
    "Classification",
    "Comparison",
    "CoreItem",
    "CoreResult",
    "CoreTask",
    "CoreTaskResult",
    "Evaluation",
    "Figure",
    "MemorizationResult",
    "PositionLoss",
    "Question",
    "TokenScores",
    "answer_all",
    "answer_questions",
    "classify",
    "distinct",
    "evaluate_core",
    "evaluate_model",
    "judged",
    "mean",
    "memorization",
    "quantile",
    "read_core_tasks",
    "repetition",
    "score_tokens",
    "standard_error",
]
