"""The meter in the package on clips whose motion is exactly known, drawn by a renderer that it has not learnt from.

The quick test takes the smallest clip of every third condition or so; the slow one takes the whole benchmark.
"""

import sys

import pytest

from benchmarks.physics.conditions import CONDITIONS, draw_clips
from benchmarks.physics.files import write_clips
from benchmarks.physics.measuring import measure
from benchmarks.physics.photographs import photographs
from benchmarks.physics.report import broken_bars, gather, summarize
from jaxmotion.meter import meter
from jaxmotion.video.canvas import canvas

QUICK = (
    "pan",
    "roll",
    "object: line",
    "object and camera",
    "plain backdrop",
    "watermark",
    "bars",
    "cut",
    "fade",
    "uneven",
)
HELD = {
    "quick": {"camera": 0.8, "object": 0.6, "bias": 9.0, "least confident tenth": 0.0},
    "whole": {"camera": 0.85, "object": 0.6, "bias": 9.0, "least confident tenth": 0.0},
}
"""The bars (see `benchmarks.physics.report.BARS`) that the shipped weights are held to; raise them with the weights."""


def smallest(clips):
    """The least pixels of all that are measured in one shape, so that one program is compiled."""
    alike = [clip for clip in clips if sorted(canvas(clip.height, clip.width)) == [144, 256]]
    return min(alike, key=lambda clip: len(clip.times) * clip.width * clip.height)


def measured(clips, folder):
    files = write_clips(clips, folder, "wheels", 1, sys.stderr)
    found = dict(measure(clips, files, meter.packaged_meter(), sys.stderr))
    return summarize(gather(clips, [found[index] for index in range(len(clips))]))


def test_a_few_clips_of_many_kinds_are_measured_right(tmp_path) -> None:
    pictures = photographs("wheels")
    clips = [smallest(draw_clips(pictures, only=name)) for name in QUICK]
    assert not broken_bars(measured(clips, tmp_path), HELD["quick"])


@pytest.mark.slow
def test_the_whole_benchmark_holds_its_bars(tmp_path) -> None:
    clips = draw_clips(photographs("wheels"))
    assert {clip.condition for clip in clips} == set(CONDITIONS)
    summary = measured(clips, tmp_path)
    assert not broken_bars(summary, HELD["whole"]), summary["conditions"]
