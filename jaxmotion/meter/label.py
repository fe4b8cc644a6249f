"""`python -m jaxmotion.score label`: a local page on which people say which of two clips moves more.

The protocol of MotionStone (arXiv:2412.05848, Motion Intensity Estimation): two clips side by side; which has the
stronger object motion, which the stronger camera motion. Every answer is on the disk before the next pair is shown.

Not specified there; we use: "about equal" as an answer; every clip is in about as many pairs as any other, no pair
twice; sides are drawn by lot; names are not shown.
"""

from __future__ import annotations

import argparse
import importlib.resources
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.text_files import escape
from jaxmotion.meter.score_files import find_videos
from jaxmotion.meter.serve import serve
from jaxmotion.video.pairs import ENDINGS, Pair, read_pairs, write_pairs

DESCRIPTION = """Shows two clips side by side and writes down which has the stronger object and camera motion.

  python -m jaxmotion.score label clips --out pairs.csv
  python -m jaxmotion.score label clips --out pairs.csv --pairs 500 --who anna

Open the address that is printed. Answers are keys (the page says which) and are saved one by one; the same command
continues. The page can be reached from this machine only; from another one, through ssh -L 8765:localhost:8765."""

EPILOG = """The file has the columns a, b (paths from its folder on), stronger_object, stronger_camera (a, b, tie, or
empty if not judged), who, seconds; with the ending .jsonl, objects with these keys."""

log = logging.getLogger(__name__)
PAIRS_PER_CLIP = 3
"""Pairs per clip by default: every clip is in six."""
Request = Json
"""JSON that the page sends."""
State = Json
"""JSON that the page shows."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command `label`."""
    parser.set_defaults(run=_label)
    parser.add_argument("clips", nargs="+", metavar="CLIPS", help="folders, videos, patterns, lists")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"{' or '.join(ENDINGS)}, continued")
    parser.add_argument(
        "--pairs", type=int, default=0, metavar="N", help="how many pairs (default: three times the number of clips)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed and clips give the same pairs (default 0)")
    parser.add_argument("--port", type=int, default=8765, help="of the page on this machine; 0: any (default 8765)")
    parser.add_argument("--who", default="", metavar="NAME", help="who judges; everyone sees the same pairs")


def _label(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Serves the page until it is stopped."""
    clips = _writable(find_videos(options.clips))
    session = LabelingSession(clips, options.out, count=options.pairs, seed=options.seed, who=options.who)
    page = importlib.resources.files("jaxmotion.meter").joinpath("label.html").read_bytes()
    state = session.state()
    print(f"{len(clips)} clips, {state['total']} pairs, {state['done']} of them judged: {options.out}")
    serve(page, clips, {"state": session.state, "answer": session.answer, "undo": session.undo}, options.port)


def _writable(clips: Sequence[str]) -> list[str]:
    """Returns the clips whose names a list of pairs can hold, and says which others there are."""
    others = [clip for clip in clips if escape(clip) != clip]
    if others:
        log.warning(
            "%d clips are left out: their names are not UTF-8, which a list of pairs cannot hold. Rename %s.",
            len(others),
            ", ".join(map(escape, others[:5])),
        )
    return [clip for clip in clips if escape(clip) == clip]


class LabelingSession:
    """Pairs to judge, and the answers so far, which are in a file."""

    def __init__(self, clips: Sequence[str], out: Path, *, count: int = 0, seed: int = 0, who: str = ""):
        """Reads the answers that the file has; those of others than `who` are kept and do not count.

        Args:
            clips: paths; two at least.
            out: .csv or .jsonl.
            count: how many pairs; 0: three times as many as clips. Never more than there are.
            seed: of the draw.
            who: judges.
        """
        self._out, self._who = out, who
        self._names = [Path(os.path.relpath(clip, out.parent)).as_posix() for clip in clips]
        self._pairs = draw_pairs(len(clips), count or PAIRS_PER_CLIP * len(clips), seed)
        self._answers = read_pairs(out) if out.exists() else []
        write_pairs(self._answers, out)  # fails now rather than at the first answer
        self._lock = threading.Lock()

    def state(self, request: Request | None = None) -> State:
        """Returns what the page shows: `done`, `total`, and the `pair` to judge: its number and the clips `a` and `b`.

        When all are judged, the pair is None.
        """
        judged = {frozenset((answer.a, answer.b)) for answer in self._answers if answer.who == self._who}
        names = [frozenset((self._names[a], self._names[b])) for a, b in self._pairs]
        left = [number for number, pair in enumerate(names) if pair not in judged]
        shown = [{"number": n, "a": self._pairs[n][0], "b": self._pairs[n][1]} for n in left[:1]]
        return {
            "total": len(names),
            "done": len(names) - len(left),
            "undoable": any(answer.who == self._who for answer in self._answers),
            "who": self._who,
            "out": str(self._out),
            "pair": shown[0] if shown else None,
        }

    def answer(self, request: Request) -> State:
        """Saves the answer to a pair (`number`, `stronger_object`, `stronger_camera`, `seconds`).

        An answer to a pair that is not the one shown, as from a second window, is not taken. Returns the new state.
        """
        with self._lock:
            state = self.state()
            if state["pair"] is not None and request.get("number") == state["pair"]["number"]:
                a, b = (self._names[state["pair"][side]] for side in "ab")
                axes = {axis: request.get(axis, "") for axis in ("stronger_object", "stronger_camera")}
                seconds = round(float(request.get("seconds", 0)), 1)
                self._save([*self._answers, Pair(a, b, **axes, who=self._who, seconds=seconds)])
            return self.state()

    def undo(self, request: Request) -> State:
        """Takes back the last answer; returns the new state."""
        with self._lock:
            own = [place for place, answer in enumerate(self._answers) if answer.who == self._who]
            if own:
                self._save([*self._answers[: own[-1]], *self._answers[own[-1] + 1 :]])
            return self.state()

    def _save(self, answers: list[Pair]) -> None:
        write_pairs(answers, self._out)
        self._answers = answers


def draw_pairs(clips: int, count: int, seed: int) -> list[tuple[int, int]]:
    """Draws different pairs of the numbers 0..clips-1, every number in as many as any other, give or take one.

    Rounds of a tournament in which everyone meets everyone once (the circle method), in a drawn order.

    Raises:
        ValueError: fewer than two clips, or fewer than one pair.
    """
    if clips < 2 or count < 1:
        raise ValueError(f"{count} pairs of {clips} clips are asked for; there must be 2 clips and 1 pair at least.")
    rng = np.random.default_rng(seed)
    first, *others = rng.permutation(clips + clips % 2).tolist()  # an odd number plays against an empty place
    pairs: list[tuple[int, int]] = []
    for turn in rng.permutation(len(others)).tolist():
        circle = [first, *others[turn:], *others[:turn]]
        meetings = [(circle[place], circle[-1 - place]) for place in range(len(circle) // 2)]
        meetings = [meeting for meeting in meetings if max(meeting) < clips]
        sides = rng.random(len(meetings)) < 0.5
        order = rng.permutation(len(meetings)).tolist()
        pairs += [meetings[place][::-1] if sides[place] else meetings[place] for place in order]
        if len(pairs) >= count:
            break
    return pairs[:count]
