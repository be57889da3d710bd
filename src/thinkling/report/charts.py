"""Drawings as inline SVG, made by hand: every colour is a class, so that the same drawing is right in light and dark.

A drawing holds numbers and lines only. Its words stand in the HTML around it, where they can be translated, read aloud
and selected. Nothing in here is text from a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from markupsafe import Markup

from thinkling.report.evidence import Row, Score

WIDTH, HEIGHT = 440.0, 216.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 8.0, 12.0, 28.0


@dataclass(frozen=True)
class Line:
    """One curve: its CSS class and its (step, value) points."""

    style: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    """Mark each point: for what was measured seldom."""
    spreads: Sequence[tuple[float, float, float]] = ()
    """(step, low, high) of the points' intervals."""


def score_bars(row: Row) -> Markup:
    """Before and after as bars from 0 to 1, with intervals, a tick for the best trivial rule; as wide as the cell."""
    scores = [(style, score) for style, score in (("before", row.before), ("after", row.after)) if score is not None]
    height = 12 * len(scores) + 6
    parts = [f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height}"/>' for x in (0, 25, 50, 75, 100)]
    for i, (style, score) in enumerate(scores):
        parts += _bar(style, score, y=3 + 12 * i)
    if any(score.baselines for _, score in scores):
        best = 100 * max(value for _, score in scores for value in score.baselines.values())
        parts.append(f'<line class="baseline" x1="{best:.2f}" x2="{best:.2f}" y1="0" y2="{height}"/>')
    return _svg("bars", 100, height, parts, 'preserveAspectRatio="none" aria-hidden="true"')


def _bar(style: str, score: Score, y: float) -> list[str]:
    low, high = (100 * bound for bound in score.strict.interval)
    middle = y + 6
    return [
        f'<rect class="bar {style}" x="0" y="{y + 1}" width="{100 * score.strict.value:.2f}" height="10"/>',
        f'<line class="halo" x1="{low:.2f}" x2="{high:.2f}" y1="{middle}" y2="{middle}"/>',
        f'<line class="whisker" x1="{low:.2f}" x2="{high:.2f}" y1="{middle}" y2="{middle}"/>',
        *(f'<line class="whisker" x1="{x:.2f}" x2="{x:.2f}" y1="{y + 3}" y2="{y + 9}"/>' for x in (low, high)),
    ]


def share_bar(style: str, value: float) -> Markup:
    """One thin bar from 0 to 1."""
    parts = [
        '<rect class="track" x="0" y="0" width="100" height="6"/>',
        f'<rect class="bar {style}" x="0" y="0" width="{100 * value:.2f}" height="6"/>',
    ]
    return _svg("share", 100, 6, parts, 'preserveAspectRatio="none" aria-hidden="true"')


def curves(lines: Sequence[Line], *, steps: float, percent: bool = False, from_zero: bool = False) -> Markup:
    """Lines over 0 to `steps` with plain axes. Points that are not numbers are left out.

    `percent` shows 0 to 1 as 0 to 100 %, and always the whole of it.
    """
    clean = [replace(line, points=_finite(line.points)) for line in lines]
    every = [point for line in clean for point in line.points]
    if not every:
        return Markup("")
    values = [y for _, y in every]
    lowest = 0.0 if from_zero or percent else min(values)
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if percent else ticks(lowest, max(values), 4)
    frame = _Frame(steps, y_ticks)
    parts = [*frame.axes(percent)]
    for line in clean:
        parts += frame.draw(line)
    return _svg("curve", WIDTH, HEIGHT, parts, 'aria-hidden="true"')  # the same numbers stand in a table


class _Frame:
    """The mapping from data to the drawing, and its axes."""

    def __init__(self, steps: float, y_ticks: list[float]) -> None:
        self.steps = steps or 1.0
        self.y_ticks = y_ticks
        self.y_low, self.y_high = y_ticks[0], y_ticks[-1]

    def x(self, value: float) -> float:
        return LEFT + value / self.steps * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / ((self.y_high - self.y_low) or 1) * (HEIGHT - TOP - BOTTOM)

    def axes(self, percent: bool) -> list[str]:
        parts = []
        for value in self.y_ticks:
            y = self.y(value)
            label = f"{100 * value:.0f} %" if percent else plain(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick right" x="{LEFT - 8}" y="{y + 4:.1f}">{label}</text>')
        for value in ticks(0, self.steps, 5):
            if value <= self.steps:
                anchor = "right" if self.x(value) > WIDTH - RIGHT - 14 else "middle"
                parts.append(
                    f'<text class="tick {anchor}" x="{self.x(value):.1f}" y="{HEIGHT - 8}">{plain(value)}</text>'
                )
        return parts

    def draw(self, line: Line) -> list[str]:
        places = [(self.x(x), self.y(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts = [f'<polyline class="line {line.style}" points="{path}"/>'] if len(places) > 1 else []
        for x, low, high in line.spreads:
            parts.append(
                f'<line class="spread {line.style}" x1="{self.x(x):.1f}" x2="{self.x(x):.1f}" '
                f'y1="{self.y(low):.1f}" y2="{self.y(high):.1f}"/>'
            )
        if line.dots or len(places) == 1:
            parts += [f'<circle class="dot {line.style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
        return parts


def smooth(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """The running median over `window` points, centred; shorter at the ends."""
    values = [y for _, y in points]
    half = window // 2
    return [(x, median(values[max(0, i - half) : i + half + 1])) for i, (x, _) in enumerate(points)]


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers that cover low to high, about `wanted` of them.

    Example:
        >>> ticks(0.3, 4.2, 4)
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    span = (high - low) or abs(high) or 1.0
    raw = span / wanted
    scale = 10 ** math.floor(math.log10(raw))
    step = next(scale * nice for nice in (1, 2, 5, 10) if scale * nice >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def plain(value: float) -> str:
    """A number for an axis or a table: 0.0002, 3.5, 1,200.

    Example:
        >>> plain(0.00025), plain(3.50), plain(1200.0), plain(0)
        ('0.00025', '3.5', '1,200', '0')
    """
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.2g}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y)]


def _svg(style: str, width: float, height: float, parts: Sequence[str], more: str) -> Markup:
    return Markup(  # noqa: S704 - numbers and class names of ours only
        f'<svg class="{style}" viewBox="0 0 {width:g} {height:g}" {more}>{"".join(parts)}</svg>'
    )
