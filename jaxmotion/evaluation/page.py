"""Pieces of HTML that the sections of the report share."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def section(title: str, words: str, content: str, aside: str = "") -> str:
    """A section of the page.

    Args:
        words: a paragraph below the title, as plain text.
        content: HTML.
        aside: HTML beside the title, such as buttons.
    """
    words = f'<p class="words">{html.escape(words)}</p>' if words else ""
    return f"<section><header><h2>{html.escape(title)}</h2>{aside}</header>{words}{content}</section>"


def words(text: str) -> str:
    """A paragraph."""
    return f'<p class="words">{html.escape(text)}</p>'


def tile(number: str, text: str, verdict: str = "", good: bool = True) -> str:
    """A large number with a sentence below it, and how it compares with what is good."""
    badge = f'<span class="badge {"good" if good else "short"}">{html.escape(verdict)}</span>' if verdict else ""
    return f'<div class="tile"><b>{html.escape(number)}</b>{badge}<p>{html.escape(text)}</p></div>'


def plots(charts: Iterable[tuple[str, str]]) -> str:
    """(caption, SVG) pairs side by side."""
    figures = (
        f'<figure class="plot"><figcaption>{html.escape(caption)}</figcaption>{chart}</figure>'
        for caption, chart in charts
    )
    return f'<div class="plots">{"".join(figures)}</div>'


def numbers_table(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[float | None]]]) -> str:
    """A table of numbers under the columns, one named row after another; a missing number is a dash."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = []
    for name, values in rows:
        cells = "".join(f"<td>{'-' if value is None else f'{value:.3f}'}</td>" for value in values)
        body.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    return f'<table class="numbers"><tr><th></th>{head}</tr>{"".join(body)}</table>'


def count(number: int, noun: str) -> str:
    """A number of things in words: `1 seed`, `2 seeds`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
