"""How good a model is on a text: its perplexity, and how far it is from another model's predictions.

token_scores.py  the log-probability of each token, window by window
statistics.py    means and quantiles of such values, with standard errors
quality.py       the figures of `gollm eval`
"""

from gollm.evaluation.quality import Comparison, Evaluation, evaluate_model
from gollm.evaluation.statistics import Figure, mean, quantile, standard_error
from gollm.evaluation.token_scores import TokenScores, score_tokens

__all__ = [
    "Comparison",
    "Evaluation",
    "Figure",
    "TokenScores",
    "evaluate_model",
    "mean",
    "quantile",
    "score_tokens",
    "standard_error",
]
