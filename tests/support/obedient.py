"""A model that obeys perfectly: clips that are rendered at exactly the scores that are asked for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from jaxmotion.data.synthetic_clips import SyntheticClips, SyntheticClipsSource
from jaxmotion.evaluation.evaluation import Scene
from jaxmotion.systems.control import Scalar
from jaxmotion.video.geometry import camera_step, steady_camera
from jaxmotion.video.motion_scale import SCORE, speed
from jaxmotion.video.synthetic import scene as synthetic

FPS, FRAMES = 12.0, 5


@functools.cache
def source(side: int) -> SyntheticClipsSource:
    """Held-out photographs with one round object in the middle."""
    config = SyntheticClips(
        split="held_out",
        frames=FRAMES,
        fps=FPS,
        size=(side, side),
        camera=("static",),
        object_counts=(1,),
        objects=("still",),
        object_size=(0.26, 0.3),
        object_place=(0.4, 0.7),
        shapes=("round",),
        view=(0.1, 0.3),
        caption=("scene",),
    )
    opened = config.open()
    assert isinstance(opened, SyntheticClipsSource)
    return opened


def obedient_clip(side: int, index: int, own: float, camera: float) -> tuple[np.ndarray, np.ndarray]:
    """A clip [T H W 3] whose object moves left and whose camera pans left at these scores, and its first mask."""
    drawn = source(side).draw(np.random.default_rng([index]))
    pan = camera_step("pan", "left", np.pi, float(speed(camera)), FPS, side, side)
    placed = []
    for cutout in drawn.cutouts:
        path = np.repeat(cutout.placement[:1], FRAMES, 0)
        path[:, 0, 2] -= float(speed(own)) / FPS * np.hypot(side, side) * np.arange(FRAMES)
        placed.append(dataclasses.replace(cutout, placement=path))
    moved = dataclasses.replace(drawn, camera=steady_camera([pan], FRAMES), cutouts=tuple(placed))
    video, masks = synthetic.render(moved)
    return video, masks.any(0)[0]


class Obedient:
    """A generator (`evaluation.Generate`) with an object and a camera control; `answer` may spoil what it does.

    Args:
        answer: from the scene's number, the seed and the values asked for (object, camera) to those that are rendered.
    """

    def __init__(self, side: int = 24, answer=lambda scene, seed, own, camera: (own, camera)) -> None:
        self.side, self.answer = side, answer
        self.controls = {
            "object": Scalar(measures=("object_speed",), unit=SCORE),
            "camera": Scalar(measures=("camera_speed",), unit=SCORE, held=1.0),
        }

    def scenes(self, count: int, *, masks: bool = True) -> list[Scene]:
        """Held-out scenes, with or without the place of their object."""
        first = [obedient_clip(self.side, index, 1.0, 1.0) for index in range(count)]
        return [Scene(str(i), video[0], mask=mask if masks else None) for i, (video, mask) in enumerate(first)]

    def __call__(self, scene: Scene, values: Sequence[Mapping[str, object]], seed: int) -> np.ndarray:
        asked = [{"object": 5.0, "camera": 5.0, **each} for each in values]
        index = int(scene.name)
        given = [self.answer(index, seed, float(each["object"]), float(each["camera"])) for each in asked]
        return np.stack([obedient_clip(self.side, index, *each)[0] for each in given])
