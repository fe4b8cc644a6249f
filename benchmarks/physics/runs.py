"""A run of the benchmark: which clips, their files, their measurements, their numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.physics.clip import Clip
from benchmarks.physics.conditions import SEED, draw_clips
from benchmarks.physics.files import write_clips
from benchmarks.physics.invariance import INVARIANCE, KINDS, draw_invariance, format_spreads, spreads
from benchmarks.physics.measuring import measure_with_records
from benchmarks.physics.named import NAMED, draw_named
from benchmarks.physics.photographs import Photograph, photographs
from benchmarks.physics.report import Results, draw_scatter, format_tables, gather, summarize
from jaxmotion.meter.estimate import IdentifiedMeter

APART: Mapping[str, Callable[[Mapping[str, Photograph]], list[Clip]]] = {NAMED: draw_named, INVARIANCE: draw_invariance}
"""Sets of clips that are no part of the benchmark's own, by name."""


def choose_clips(
    source: str = "auto", seed: int = SEED, only: str | None = None, count: int | None = None
) -> list[Clip]:
    """Draws the clips of the benchmark, of one condition, or a sample of `count` over all conditions."""
    pictures = photographs(source)
    if only in APART:
        return APART[only](pictures)
    clips = draw_clips(pictures, seed, only)
    if count is None or count >= len(clips):
        return clips
    places = [round((index + 0.5) * len(clips) / count - 0.5) for index in range(count)]
    return [clips[place] for place in places]


def measure_clips(
    clips: Sequence[Clip],
    meter: IdentifiedMeter,
    folder: Path,
    *,
    source: str = "auto",
    workers: int = 2,
) -> Results:
    """Renders what is not in `folder/clips` yet, measures what is not in `folder/measured.jsonl` yet."""
    files = write_clips(clips, folder / "clips", source, workers, sys.stderr)
    return gather(clips, measure_with_records(clips, files, meter, folder / "measured.jsonl", sys.stderr))


def run(clips: Sequence[Clip], meter: IdentifiedMeter, folder: Path, *, source: str = "auto", workers: int = 2) -> str:
    """Measures clips and writes physics.json, physics.md and physics.png; returns the text."""
    results = measure_clips(clips, meter, folder, source=source, workers=workers)
    summary = {"meter": meter.name, "photographs": source, **summarize(results)}
    text = format_tables(summary)
    if all(clip.condition in KINDS for clip in clips):
        summary["spreads"] = spreads(results)
        text = f"{format_spreads(summary['spreads'])}\n{text}"
    (folder / "physics.json").write_text(json.dumps(summary, indent=1) + "\n")
    (folder / "physics.md").write_text(text)
    draw_scatter(results, folder / "physics.png")
    return text
