"""Real clips with human judgements and measured labels: the paper's training data for the motion estimator.

Rows are pairs of clips: those of a file of judgements (`pairs`), and labelled clips (`labels`) two by two, which nobody
has judged. What is not known of a row is not a number, and the losses leave it out.

A clip is read as the motion meter reads it: one of the windows of its file (`video.frames`), drawn evenly, so that all
frames are seen over the epochs; of a window with a cut, the longest shot; not cropped, at the canvas of its shape,
lying on its side if it is tall (`video.canvas`). A judgement of two files stands for any two of their windows; a label
is that of the window where the list of labels has windows, and that of the file otherwise.

Source: MotionStone (arXiv:2412.05848), Motion Intensity Estimation: 5,000 judged pairs, pseudo-labels of single clips.
Not specified in the paper; we use: windows and shapes.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jaxmotion.data.clips import Clips, ClipsSource
from jaxmotion.data.source import Buckets, DataConfig, DataSource, Example, Shape
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import FPS, VIDEO
from jaxmotion.video.canvas import canvas, lying_canvas
from jaxmotion.video.cuts import split_at_cuts
from jaxmotion.video.decode import BadClipError, read_size, read_window
from jaxmotion.video.frames import fill_window
from jaxmotion.video.motion_scale import AXES
from jaxmotion.video.pairs import SECOND_VIDEO, STEP_SECONDS, STEP_SHARES, STRONGER, locate_pairs, read_pairs
from jaxmotion.video.score_lists import Scores, read_scores
from jaxmotion.video.synthetic.captions import CAPTION

SIGNS = {"a": 1.0, "b": -1.0, "tie": 0.0, "": float("nan")}
MOST_SUBSTITUTES = 32
"""After so many pairs in a row that cannot be read something else is wrong."""
log = logging.getLogger(__name__)


@register("Judged")
@dataclasses.dataclass(frozen=True)
class ComparedPairs(DataConfig):
    """Pairs of real clips. At least one of `pairs` and `labels` must be given."""

    path: str
    """A folder of clips or a list of them."""
    pairs: str = ""
    """A csv or jsonl file of judged pairs (`python -m jaxmotion.score label` writes one)."""
    labels: str = ""
    """A jsonl file with `path`, `object` and `camera` for single clips, such as pseudo-labels."""
    frames: int = 9
    """Length of a window at most; shorter ones go back and forth."""
    fps: float = 8.0
    """Frames per second, about; the real times are in the batch."""
    size: tuple[int, int] = (144, 256)
    """(height, width) with as many pixels as those at which clips are read; their shape is that of each clip."""
    on_bad: Literal["skip", "stop"] = "skip"
    """Whether a file that cannot be used is skipped or stops the run."""

    def __post_init__(self) -> None:
        if not self.pairs and not self.labels:
            raise ValueError("Compared pairs need a file of pairs or labels; set data.pairs, data.labels or both.")

    def open(self, report: Path | None = None) -> DataSource:
        """Lists the clips and reads their labels.

        Raises:
            FileNotFoundError: a file is not there.
            ValueError: a list cannot be read, names clips that are not there, or leaves no pair.
        """
        listed = Clips(self.path, frames=2, fps=self.fps, size=self.size, on_bad=self.on_bad)
        source = listed.open_as_one(report)
        places = {str(Path(file.path).resolve()): index for index, file in enumerate(source.files)}
        labels = read_scores(Path(self.labels), Path(self.path), places) if self.labels else {}
        judged = _pairs_of_clips(Path(self.pairs), Path(self.path), places) if self.pairs else []
        named = sorted({*labels, *(clip for pair in judged for clip in pair.clips)})
        shapes = {clip: lying_canvas(*read_size(source.files[clip].path), self.size) for clip in named}
        rows = [*(_in_order(pair, shapes) for pair in judged), *_two_by_two(labels, shapes)]
        if not rows:
            raise ValueError(f"No pair is left: {self.pairs or self.labels} names none of the clips in {self.path}.")
        by_shapes: dict[tuple, list[Row]] = {}
        for row in rows:
            by_shapes.setdefault(tuple(shapes[clip] for clip in row.clips), []).append(row)
        parts = [
            ComparedPairsSource(dataclasses.replace(self, size=first), source, tuple(alike), labels, second)
            for (first, second), alike in by_shapes.items()
        ]
        return Buckets(parts) if len(parts) > 1 else parts[0]


class Row(NamedTuple):
    """Two clips by their indices, and which of them moves more, by axis: 1 the first, -1 the second, 0 neither."""

    clips: tuple[int, int]
    order: tuple[float, float] = (float("nan"), float("nan"))


class ComparedPairsSource(DataSource):
    """The rows of a `ComparedPairs` config whose clips have the same two shapes."""

    config: ComparedPairs
    entries: Sequence[str] = (VIDEO, SECOND_VIDEO, FPS)
    optional_entries = (*AXES, *STRONGER, STEP_SECONDS, STEP_SHARES)

    def __init__(
        self,
        config: ComparedPairs,
        clips: ClipsSource,
        rows: tuple[Row, ...],
        labels: Mapping[int, Scores],
        second: tuple[int, int],
    ):
        super().__init__(config)
        self.clips, self.rows, self.labels, self.second = clips, rows, labels, second

    @property
    def further_shape(self) -> Shape | None:
        return Shape(self.config.frames, *self.second)

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        return f"{self.clips.fingerprint()} {self.rows} {sorted(self.labels.items())}"

    def load(self, index: int, rng: np.random.Generator | None = None) -> Example:
        """Reads a pair: `video`, `second_video` uint8 [T H W 3], `object` and `camera` [2], and who moves more.

        `stronger_object` and `stronger_camera` are 1 if the first moves more, -1 if the second does, 0 for a tie. What
        is unknown is NaN. Without a generator the windows are the first of their files. A pair that cannot be read is
        reported, and the next one takes its place.

        Raises:
            BadClipError: one cannot be read and `on_bad` is "stop", or none of the next ones can be read either.
        """
        where = (0.0, 0.0) if rng is None else tuple(rng.random(2))
        for step in range(min(MOST_SUBSTITUTES, len(self))):
            example = self._read(self.rows[(index + step) % len(self)], where)
            if example is not None:
                return example
        raise BadClipError(f"Pair {index} of {self.config.pairs or self.config.labels} and those after cannot be read.")

    def load_or_skip(self, index: int, rng: np.random.Generator | None = None) -> Example | None:
        return self._read(self.rows[index], (0.0, 0.0) if rng is None else tuple(rng.random(2)))

    def _read(self, row: Row, where: Sequence[float]) -> Example | None:
        """Returns the pair of a row; None, and a line in the report, if one of its clips cannot be read."""
        windows = []
        for clip, place in zip(row.clips, where, strict=True):
            file = self.clips.files[clip]
            try:
                windows.append(self._window(clip, place))
            except BadClipError as error:
                self.clips.bad.add(file, str(error))
                if self.config.on_bad == "stop":
                    raise BadClipError(f"{file.path}: {error}. To go on without it, set on_bad to 'skip'.") from error
                return None
        names = (VIDEO, SECOND_VIDEO)
        return {
            **{name: window[VIDEO] for name, window in zip(names, windows, strict=True)},
            FPS: np.float32(self.config.fps),
            CAPTION: "",
            "id": " ".join(self.clips.files[clip].id for clip in row.clips),
            **{name: np.stack([each[name] for each in windows]) for name in (*AXES, STEP_SECONDS, STEP_SHARES)},
            **{name: np.float32(sign) for name, sign in zip(STRONGER, row.order, strict=True)},
        }

    def _window(self, clip: int, where: float) -> dict[str, np.ndarray | np.floating]:
        """Returns one window of a clip, filled to all frames: its pictures, times and labels."""
        frames = self.config.frames
        read = read_window(self.clips.files[clip].path, frames, functools.partial(canvas, like=self.config.size), where)
        shots = split_at_cuts(read.video)
        if not shots:
            raise BadClipError("a window that is nothing but cuts")
        shot = max(shots, key=len)
        seconds = read.seconds[shot]
        order, shares = fill_window(len(shot), frames)
        video = read.video[shot][order]
        if video.shape[1] > video.shape[2]:
            video = np.ascontiguousarray(video.swapaxes(1, 2))
        labels = (float("nan"),) * 2
        if clip in self.labels:
            labels = self.labels[clip].of_clip(float(seconds[0]), float(seconds[-1]))
        return {
            VIDEO: video,
            **{axis: np.float32(label) for axis, label in zip(AXES, labels, strict=True)},
            STEP_SECONDS: np.abs(np.diff(seconds[order])).astype(np.float32),
            STEP_SHARES: shares.astype(np.float32),
        }


def _pairs_of_clips(path: Path, root: Path, places: Mapping[str, int]) -> list[Row]:
    """Judged pairs with the clips' indices; those whose clips cannot be used are left out, and counted."""
    folder = root if root.is_dir() else root.parent
    found, judged = [], locate_pairs(read_pairs(path), folder)
    for pair in judged:
        a, b = (places.get(str(Path(name).resolve())) for name in (pair.a, pair.b))
        if a is not None and b is not None:
            found.append(Row((a, b), (SIGNS[pair.stronger_object], SIGNS[pair.stronger_camera])))
    if len(found) < len(judged):
        log.warning("%s: %d of %d pairs are of clips that cannot be used.", path, len(judged) - len(found), len(judged))
    return found


def _in_order(row: Row, shapes: Mapping[int, tuple[int, int]]) -> Row:
    """Returns a pair with the clip of the smaller shape first, so that there are few combinations of shapes."""
    first, second = row.clips
    if shapes[first] <= shapes[second]:
        return row
    return Row((second, first), (-row.order[0], -row.order[1]))


def _two_by_two(labels: Mapping[int, Scores], shapes: Mapping[int, tuple[int, int]]) -> list[Row]:
    """Labelled clips of one shape two by two, each with the next of a fixed shuffle; a lone one with itself."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for clip in np.random.default_rng(0).permutation(sorted(labels)).tolist():
        by_shape.setdefault(shapes[clip], []).append(clip)
    return [
        Row((alike[place], alike[(place + 1) % len(alike)]))
        for alike in by_shape.values()
        for place in range(0, len(alike), 2)
    ]
