"""Captions of synthetic clips: what moves, and where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxmotion.video.synthetic.cutouts import Cutout

CAPTION = "caption"
"""Under this name an example holds its caption; a batch holds the token ids instead."""
CAPTIONS = "captions"
"""Under this name an example holds all captions of a clip, if it has several; `CAPTION` is one of them."""
STILL = "nothing moves"
CAMERA_VERBS = {"pan": "pans", "zoom": "zooms", "roll": "rolls", "shake": "shakes"}
OBJECT_VERBS = {"translate": "moves", "rotate": "turns", "scale": "", "wobble": "wobbles"}
AMOUNTS = ((0.05, "slowly"), (0.2, ""), (float("inf"), "fast"))
"""The word for speeds up to each number, in diagonals per second."""


def describe_motion(camera_moves: Sequence[tuple[str, str]], cutouts: Sequence[Cutout]) -> str:
    """For instance "the camera pans left and zooms in, a round patch of coffee moves up"; `STILL` when nothing does."""
    subjects = [("the camera", _phrases(camera_moves, CAMERA_VERBS))]
    for cutout in cutouts:
        moves = [(motion.kind, motion.way) for motion in cutout.motions if motion.speed > 0]
        subjects.append((f"a {cutout.name}", _phrases(moves, OBJECT_VERBS)))
    return ", ".join(f"{who} {' and '.join(does)}" for who, does in subjects if does) or STILL


def amount_word(speed: float) -> str:
    """A word for a speed in diagonals per second, or nothing for the speeds between slow and fast."""
    return next(word for limit, word in AMOUNTS if speed <= limit)


def _phrases(moves: Iterable[tuple[str, str]], verbs: dict[str, str]) -> list[str]:
    return [" ".join(word for word in (verbs[kind], way) if word) for kind, way in moves if kind in verbs]
