"""Line charts as inline SVG. Colours and type come from the page's style sheet, so they follow light and dark."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

HEIGHT = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 46


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart; `style` is its class in the style sheet (`main`, `faint`)."""

    x: Sequence[float]
    y: Sequence[float]
    style: str = "main"
    bars: Sequence[float] = ()
    """Half the length of an error bar at each point; none when empty."""
    points: Sequence[str] = ()
    """What a dot at each point says when it is pointed at; no dots when empty."""
    name: str = ""
    """What the line says when it is pointed at."""


def line_chart(
    lines: Sequence[Line],
    *,
    says: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float] | None = None,
    log: bool = False,
    zero: bool = False,
    width: int = 560,
) -> str:
    """An SVG element.

    Args:
        lines: drawn in order, the last on top.
        says: the chart in a sentence, for those who do not see it.
        x_ticks: where the x axis has numbers; round numbers when not given.
        log: logarithmic y axis; values must be positive.
        zero: the y axis starts at 0.
        width: in the same units as the type (12.5) and the height (300); the page scales it.
    """
    xs = np.concatenate([np.asarray(line.x, float) for line in lines])
    low, high = _extent(lines)
    place_x, ticks_x = _axis(xs.min(), xs.max(), (_LEFT + 8, width - _RIGHT - 8), x_ticks)
    if log:
        ticks_y, between = _log_ticks(low, high)
        place_y = _scale(np.log10(low), np.log10(high), HEIGHT - _BOTTOM - 4, _TOP + 4, np.log10)
    else:
        low = 0.0 if zero else low
        ticks_y = [tick for tick in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if tick >= low]
        low, high, between = min(low, ticks_y[0]), max(high, ticks_y[-1]), []
        place_y = _scale(low, high, HEIGHT - _BOTTOM, _TOP)
    ticks_y = [tick for tick in ticks_y if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
    parts = [f'<svg class="chart" viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{html.escape(says)}">']
    parts += [_rule(place_y(tick), width, "rule", _number(tick)) for tick in ticks_y]
    parts += [_rule(place_y(tick), width, "rule minor") for tick in between]
    bottom, middle_x, middle_y = HEIGHT - _BOTTOM, (_LEFT + width - _RIGHT) / 2, (_TOP + HEIGHT - _BOTTOM) / 2
    parts += [_text("tick", _number(tick), f'x="{place_x(tick):.1f}" y="{bottom + 18}"') for tick in ticks_x]
    parts.append(_text("label", x_label, f'x="{middle_x}" y="{HEIGHT - 6}"'))
    parts.append(_text("label", y_label, f'transform="translate(13 {middle_y}) rotate(-90)"'))
    parts += [_line(line, place_x, place_y, low) for line in lines]
    return "".join((*parts, "</svg>"))


def _rule(y: float, width: int, style: str, number: str = "") -> str:
    """A line across the chart, and its number at the left."""
    line = f'<line class="{style}" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + (_text("tick", number, f'x="{_LEFT - 8}" y="{y + 4:.1f}"', anchor="end") if number else "")


def _text(style: str, words: str, place: str, anchor: str = "middle") -> str:
    return f'<text class="{style}" text-anchor="{anchor}" {place}>{html.escape(words)}</text>'


def _line(line: Line, place_x: Callable[[float], float], place_y: Callable[[float], float], low: float) -> str:
    """The bars, the path and the dots of one line."""
    places = [(place_x(x), place_y(y)) for x, y in zip(line.x, line.y, strict=True)]
    style = html.escape(line.style)
    parts = [f'<g class="{style}">']
    for x, y, half in zip(line.x, line.y, line.bars, strict=False):
        bottom, top, at = place_y(max(y - half, low)), place_y(y + half), place_x(x)
        ends = "".join(f"M{at - 4:.1f} {end:.1f}h8" for end in (bottom, top))
        parts.append(f'<path class="bar" d="M{at:.1f} {bottom:.1f}V{top:.1f}{ends}"/>')
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    title = f"<title>{html.escape(line.name)}</title>" if line.name else ""
    parts.append(f'<path class="line" d="M{path}">{title}</path>')
    for (x, y), said in zip(places, line.points, strict=False):
        parts.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{html.escape(said)}</title></circle>'
        )
    return "".join((*parts, "</g>"))


def _extent(lines: Sequence[Line]) -> tuple[float, float]:
    """The lowest and the highest value, error bars included; a little apart if they are the same."""
    bars = [np.asarray(line.bars if len(line.bars) else np.zeros(len(line.y)), float) for line in lines]
    low = min(float(np.min(np.asarray(line.y) - bar)) for line, bar in zip(lines, bars, strict=True))
    high = max(float(np.max(np.asarray(line.y) + bar)) for line, bar in zip(lines, bars, strict=True))
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def _axis(
    low: float, high: float, pixels: tuple[float, float], ticks: Sequence[float] | None
) -> tuple[Callable[[float], float], Sequence[float]]:
    """The x axis: from a value to its place, and its ticks."""
    high = high if high > low else low + 1.0
    if ticks is None:
        ticks = [tick for tick in MaxNLocator(6, integer=True).tick_values(low, high) if low <= tick <= high]
    return _scale(low, high, *pixels), ticks


def _log_ticks(low: float, high: float) -> tuple[list[float], list[float]]:
    """Numbered and unnumbered lines of a logarithmic axis: powers of ten, with 2 and 5 where there are few powers."""
    powers = [t for t in LogLocator(10.0).tick_values(low, high) if low <= t <= high]
    some = [t for t in LogLocator(10.0, subs=(1.0, 2.0, 5.0)).tick_values(low, high) if low <= t <= high]
    return (powers, some) if len(powers) > 2 else (some, [])


def _scale(
    low: float, high: float, start: float, end: float, of: Callable[[float], float] = float
) -> Callable[[float], float]:
    return lambda value: start + (of(value) - low) / (high - low) * (end - start)


def _number(value: float) -> str:
    """A number for an axis: 0, 0.05, 250, 10 000."""
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 1000 else f"{value:.6g}"
