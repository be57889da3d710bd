"""Best of n: of several completions of one prompt the one with the highest score.

The score is the completion's own log-probability, as a sum or per token (mean), or whatever a reward says. A sum
favours short completions, a mean does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from thinkling.core.errors import ConfigError
from thinkling.core.language import tr

CHOOSES = "sequences"
SCORES = ("mean", "sum")


def score(logprobs: Sequence[float], by: str) -> float:
    """The log-probability of one completion: `sum` in nats, `mean` in nats per token; of no tokens 0.

    Raises:
        ConfigError: No such score.
    """
    if by not in SCORES:
        what = tr("there is no score '{by}'", by=by)
        raise ConfigError(what, where="best_of_n", fix=tr("take one of {names}", names=", ".join(SCORES)))
    total = math.fsum(logprobs)
    return total / len(logprobs) if by == "mean" and logprobs else total


def best(scores: Sequence[float]) -> int:
    """The place of the highest score; of several alike the first one.

    Raises:
        ConfigError: No scores, or one that is not a number.
    """
    if not scores or any(math.isnan(one) for one in scores):
        what = tr("scores {scores} name no best one", scores=list(scores))
        raise ConfigError(what, where="best_of_n", fix=tr("give each completion a number"))
    return max(range(len(scores)), key=lambda i: (scores[i], -i))
