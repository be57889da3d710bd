"""How sure a number is: intervals for one score, paired comparison of two, what a test of n items can show.

Scores are shares between 0 and 1; differences are "after minus before" of the same items. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

_NORMAL = NormalDist()


@dataclass(frozen=True)
class PairedComparison:
    """Two scores on the same items."""

    n: int
    difference: float
    """After minus before, as a share: 0.13 is 13 points."""
    interval: tuple[float, float]
    """95 % unless asked otherwise, by Newcombe's score method for paired shares."""
    gained: int
    """Items wrong before and right after."""
    lost: int
    """Items right before and wrong after."""
    p_value: float
    """Exact McNemar test, two-sided."""


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share, good near 0 and 1 too; (0, 1) when there is no item.

    Wilson 1927; Newcombe 1998, Statistics in Medicine 17:857, method 3.

    Example:
        >>> [round(bound, 3) for bound in wilson(1, 96)]
        [0.002, 0.057]
    """
    assert 0 <= successes <= n, (successes, n)
    return _wilson(successes / n, n, confidence) if n else (0.0, 1.0)


def wilson_clustered(clusters: Sequence[tuple[int, int]], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share whose items come in clusters and may agree within one, as the equations of one completion do.

    Wilson's interval at the effective number of items p (1 - p) / Var(p), at most all of them: p is the ratio of the
    totals and Var(p) its variance between clusters (Cochran 1977, Sampling Techniques, section 3.12; Wilson at an
    effective number: Franco et al. 2019, J. Survey Statistics and Methodology 7:334). A share of 0 or 1, or a single
    cluster, shows no variance: then each cluster counts as one item. Below about ten clusters it is still too narrow.

    Args:
        clusters: (successes, items) of each; those without items are left out.

    Example:
        >>> [round(bound, 2) for bound in wilson(80, 100)]
        [0.71, 0.87]
        >>> [round(bound, 2) for bound in wilson_clustered([(10, 10)] * 8 + [(0, 10)] * 2)]
        [0.47, 0.95]
    """
    assert all(0 <= successes <= items for successes, items in clusters), clusters
    filled = [(successes, items) for successes, items in clusters if items]
    total, n = sum(items for _, items in filled), len(filled)
    if n == 0:
        return 0.0, 1.0
    share = sum(successes for successes, _ in filled) / total
    if n == 1 or share in (0.0, 1.0):
        return _wilson(share, n, confidence)
    squares = sum((successes - share * items) ** 2 for successes, items in filled)
    variance = squares / total**2 * n / (n - 1)
    effective = min(total, share * (1 - share) / variance) if variance else total
    return _wilson(share, effective, confidence)


def _wilson(share: float, n: float, confidence: float) -> tuple[float, float]:
    """Wilson's limits of a share seen among n items; n may be a fraction."""
    z = _quantile(confidence)
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if share == 0 else max(0.0, (middle - half) / scale)
    high = 1.0 if share == 1 else min(1.0, (middle + half) / scale)
    return low, high


def paired(before: Sequence[bool], after: Sequence[bool], confidence: float = 0.95) -> PairedComparison:
    """Compare two graders' verdicts, or one grader's on two models, item by item.

    The interval is Newcombe's hybrid score interval for paired shares with continuity-corrected correlation
    (Newcombe 1998, Statistics in Medicine 17:2635, method 10). Unlike the plain one it keeps its width when nobody
    changed, and never leaves [-1, 1].

    Args:
        before, after: One verdict an item, in the same order.
    """
    assert len(before) == len(after), (len(before), len(after))
    n = len(before)
    gained = sum(1 for old, new in zip(before, after, strict=True) if new and not old)
    lost = sum(1 for old, new in zip(before, after, strict=True) if old and not new)
    both = sum(1 for old, new in zip(before, after, strict=True) if old and new)
    if n == 0:
        return PairedComparison(0, 0.0, (-1.0, 1.0), 0, 0, 1.0)
    interval = _newcombe(both, gained, lost, n - both - gained - lost, confidence)
    return PairedComparison(n, (gained - lost) / n, interval, gained, lost, mcnemar(gained, lost))


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p-value that items change either way equally often: a fair coin, tossed gained + lost times."""
    changed = gained + lost
    tail, ways = 0, 1
    for k in range(min(gained, lost) + 1):
        tail += ways
        ways = ways * (changed - k) // (k + 1)
    return min(1.0, 2 * tail / 2**changed)


def detectable_difference(
    n: int, rate: float = 0.3, correlation: float = 0.5, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest true difference between two models that a paired test of n items will probably show; at most 1.

    Var(d) = 2 rate (1 - rate) (1 - correlation), with the items' correctness correlated between the models.

    Example:
        >>> round(detectable_difference(1319), 3)  # GSM8K's test set
        0.035
    """
    if n == 0:
        return 1.0
    return min(1.0, _z_sum(power, alpha) * math.sqrt(_pair_variance(rate, correlation) / n))


def needed_n(
    difference: float, rate: float = 0.3, correlation: float = 0.5, power: float = 0.8, alpha: float = 0.05
) -> int:
    """How many items a paired test needs to show a true difference of this size, probably."""
    assert difference != 0, "no number of items shows a difference of zero"
    return math.ceil(_z_sum(power, alpha) ** 2 * _pair_variance(rate, correlation) / difference**2)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean of independent values; infinite with fewer than two."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = _student_quantile(confidence, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    middle = fmean(values)
    return middle - half, middle + half


def words(comparison: PairedComparison, margin: float) -> str:
    """What may be said of a comparison, and nothing stronger.

    "higher" or "lower" where the interval leaves out 0; "no difference larger than 2 points" where it lies within the
    margin; else "cannot tell (needs about 900 items)": so many that a difference as large as the one seen, or as the
    margin if that is larger, would probably show, if items go on changing as often as here.

    Args:
        margin: The largest difference that does not matter, as a share above 0.
    """
    assert margin > 0, margin
    low, high = comparison.interval
    if low > 0:
        return "higher"
    if high < 0:
        return "lower"
    if -margin <= low and high <= margin:
        return f"no difference larger than {_points(margin)}"
    target = max(abs(comparison.difference), margin)
    changed = (comparison.gained + comparison.lost + 1) / (comparison.n + 2)  # never 0, also where nothing changed yet
    variance = max(changed - comparison.difference**2, changed / 2)
    needed = math.ceil(_z_sum(0.8, 0.05) ** 2 * variance / target**2)
    return f"cannot tell (needs about {_two_digits(max(needed, comparison.n + 1)):,} items)"


def _points(share: float) -> str:
    points = f"{100 * share:.1f}".removesuffix(".0")
    return f"{points} point" if points == "1" else f"{points} points"


def _two_digits(count: int) -> int:
    """Rounded up to two significant digits: a plan, not a measurement."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit


def _quantile(confidence: float) -> float:
    assert 0 < confidence < 1, confidence
    return _NORMAL.inv_cdf(0.5 + confidence / 2)


def _z_sum(power: float, alpha: float) -> float:
    return _NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(power)


def _pair_variance(rate: float, correlation: float) -> float:
    return 2 * rate * (1 - rate) * (1 - correlation)


def _newcombe(both: int, gained: int, lost: int, neither: int, confidence: float) -> tuple[float, float]:
    """Limits of p_after - p_before from the two Wilson intervals and the correlation phi."""
    n = both + gained + lost + neither
    after, before = (both + gained) / n, (both + lost) / n
    after_low, after_high = wilson(both + gained, n, confidence)
    before_low, before_high = wilson(both + lost, n, confidence)
    phi = _phi(both, gained, lost, neither)
    down, up = (after - after_low, before_high - before), (after_high - after, before - before_low)
    difference = after - before
    low = difference - math.sqrt(max(0.0, down[0] ** 2 - 2 * phi * down[0] * down[1] + down[1] ** 2))
    high = difference + math.sqrt(max(0.0, up[0] ** 2 - 2 * phi * up[0] * up[1] + up[1] ** 2))
    return max(-1.0, low), min(1.0, high)


def _phi(both: int, gained: int, lost: int, neither: int) -> float:
    """Correlation of the two verdicts, a positive numerator drawn n/2 towards 0 (Newcombe's continuity correction)."""
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    cross = both * neither - gained * lost
    corrected = max(cross - (both + gained + lost + neither) / 2, 0.0) if cross > 0 else cross
    return corrected / math.sqrt(margins)


def _student_quantile(confidence: float, freedom: int) -> float:
    """Two-sided quantile of Student's t; closed forms for 1 and 2 degrees of freedom, else the expansion around the
    normal quantile (Abramowitz and Stegun 26.7.5), whose error is below 0.2 % from 3 degrees on at 95 %."""
    z, p = _quantile(confidence), confidence
    if freedom == 1:
        return math.tan(math.pi * p / 2)
    if freedom == 2:
        return p * math.sqrt(2 / (1 - p * p))
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
