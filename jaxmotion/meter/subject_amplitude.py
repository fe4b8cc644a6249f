"""The amplitude of the subject's motion, after VMBench's perceptible amplitude score (PAS).

Source: VMBench (arXiv:2503.10076), `perceptible_amplitude_score.py` of its repository. There, Grounded-SAM masks the
subject that the prompt names in the first frame, and CoTracker follows a 30 x 30 grid of points on the subject, and one
on the rest, through the clip. A path is the sum over the frames of a point's displacements, in frame diagonals, mean
over points; PAS = subject's path - background's path if that is above 0, else the subject's path; where nothing is
detected, it is the background's path. It grows with the length of the clip.

What is the same here: the paths, the difference, and its two exceptions. What is different:
- the subject is what moves by itself (`objects.moving_points`), in most steps and on 3 % of the picture or more, or
  masks that are given, and not what a prompt names: a small subject and one that stands still are not seen, and then
  the number is the camera's;
- points are laid anew in every frame and followed to the next by `tracks.LucasKanade`, there and back again; CoTracker
  follows those of the first frame through all, also where they are hidden;
- frames are about 1/8 s apart, so what trembles faster has a shorter path; VMBench takes every frame.

PAS takes lengths of paths from each other and not vectors: of a subject that a camera follows, the path is shorter
than the background's, and the number is that path. That is as published.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxmotion.meter.camera import fit_camera, residuals
from jaxmotion.meter.objects import moving_points, points_on
from jaxmotion.meter.tracks import LucasKanade, Tracker, Tracks

TRACKER = LucasKanade()
LEAST = 0.03
"""Share of the points that must move by themselves, median over the steps, to be a subject; fewer may be lost ones."""


def subject_amplitude(
    video: UInt8[np.ndarray, "T H W 3"],
    masks: Bool[np.ndarray, "T H W"] | None = None,
    tracker: Tracker = TRACKER,
) -> float:
    """Returns PAS of frames about 1/8 s apart: frame diagonals over the whole clip.

    masks: where the subject is; without them it is what moves by itself.
    """
    size = video.shape[1:3]
    tracks = tracker(video)
    camera = fit_camera(tracks, size)
    if masks is None:
        subject = moving_points(np.linalg.norm(residuals(tracks, camera), axis=-1) / np.hypot(*size), tracks)
        subject = subject & (_share(subject, tracks) >= LEAST)
    else:
        subject = points_on(tracks, masks)
    return path_difference(tracks, subject, size)


def path_difference(tracks: Tracks, subject: Bool[np.ndarray, "T-1 N"], size: tuple[int, int]) -> float:
    """Returns the subject's path less the background's, diagonals; where that is not above 0, the subject's path.

    In steps in which no point of the subject moves by itself, it goes with the background, and the other way round.
    """
    lengths = np.linalg.norm(tracks.end - tracks.start, axis=-1) / np.hypot(*size)
    whole = _mean_lengths(lengths, tracks.valid, np.zeros(len(lengths)))
    background = _mean_lengths(lengths, tracks.valid & ~subject, whole)
    own = float(_mean_lengths(lengths, tracks.valid & subject, background).sum())
    rest = float(background.sum())
    return own - rest if own > rest else own


def _share(subject: Bool[np.ndarray, "T-1 N"], tracks: Tracks) -> float:
    """Returns the subject's share of the points that could be followed, median over the steps."""
    return float(np.median((subject & tracks.valid).sum(-1) / np.maximum(tracks.valid.sum(-1), 1)))


def _mean_lengths(
    lengths: Float[np.ndarray, "T-1 N"], on: Bool[np.ndarray, "T-1 N"], otherwise: Float[np.ndarray, " T-1"]
) -> Float[np.ndarray, " T-1"]:
    """Returns the mean length over the points of every step; where there are none, `otherwise`."""
    counts = on.sum(-1)
    return np.where(counts > 0, (lengths * on).sum(-1) / np.maximum(counts, 1), otherwise)
