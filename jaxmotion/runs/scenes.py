"""Scenes that training never saw, for evaluations and reports: held-out examples, pictures of a folder, photographs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from jaxmotion.data.source import Example
from jaxmotion.evaluation.evaluation import Scene
from jaxmotion.evaluation.measures import MASKS
from jaxmotion.foundation.entries import VIDEO
from jaxmotion.foundation.text_files import escape
from jaxmotion.runs.experiment import Experiment
from jaxmotion.systems.control import Controls
from jaxmotion.video.clip_files import is_left_out
from jaxmotion.video.images import fit, load_image
from jaxmotion.video.picture_captions import picture_captions
from jaxmotion.video.synthetic.captions import CAPTION
from jaxmotion.video.synthetic.photos import HELD_OUT, SKIMAGE_PHOTOS, SUFFIXES, read_photos

_LOG = logging.getLogger(__name__)
COUNT = 6
"""Scenes of an evaluation, unless it is said or a folder of pictures is given."""
CLOSER = 0.65
"""Height and width of each closer view of a photo, as a share of the one before."""


def evaluation_scenes(
    experiment: Experiment,
    entries: Sequence[str],
    images: Path | None = None,
    count: int = COUNT,
    masks: Path | None = None,
) -> list[Scene]:
    """Returns scenes that training never saw: held-out examples if `entries` of them are read, otherwise photos.

    Args:
        entries: entries of examples that the scenes should have, such as `masks`; where the data makes no such
            examples, those of controls without a default are a must.
        images: a folder of pictures, which have no entries.
        masks: a folder with the objects of these pictures; see `read_masks`.

    Raises:
        ValueError: a control without a default needs held-out examples, the data makes none, and no folder is given.
    """
    if masks is not None and images is None:
        raise ValueError(f"The masks in {masks} are those of pictures; give their folder (--images DIR), too.")
    if images is not None:
        return read_pictures(images, experiment, masks)
    needed = required_controls(experiment.system.controls)
    for wanted in dict.fromkeys((tuple(dict.fromkeys((*entries, *needed))), needed)):
        examples = experiment.data.held_out_examples(count, wanted) if wanted else None
        if examples is not None:
            return [_scene(example) for example in examples]
    if needed:
        raise ValueError(
            f"The data of this run ({type(experiment.data).__name__}) makes no held-out examples with "
            f"{', '.join(needed)}; give a folder of pictures (--images DIR)."
        )
    return [Scene(name, picture, prompt) for name, (picture, prompt) in evaluation_photos(experiment, count).items()]


def required_controls(controls: Controls) -> tuple[str, ...]:
    """Returns the names of the controls without a default, whose values come from examples."""
    return tuple(name for name, control in controls.items() if control.default is None)


def read_pictures(folder: Path, experiment: Experiment, masks: Path | None = None) -> list[Scene]:
    """Returns the pictures of a folder as scenes, with their captions (`video.picture_captions`) and masks.

    Pictures without a caption have the experiment's prompts, in turn.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no picture is in it, or a mask does not fit.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; give a folder of pictures.")
    files = [path for path in _pictures(folder)]
    if not files:
        raise ValueError(f"{folder} holds no picture; looked for {', '.join(SUFFIXES)}.")
    captions, objects = picture_captions(files), read_masks(masks, files) if masks is not None else {}
    without = [path for path in files if path not in captions]
    if without:
        shown = ", ".join(repr(prompt) for prompt in experiment.prompts[:3])
        _LOG.warning(
            escape(
                f"{len(without)} of {len(files)} pictures in {folder} have no caption, such as {without[0].name}; they "
                f"are animated with {shown}. A list such as captions.jsonl (file_name, caption) would give them one."
            )
        )
    scenes, size = [], experiment.system.size
    for index, path in enumerate(files):
        picture = load_image(path)
        mask = objects.get(path)
        if mask is not None and mask.shape != picture.shape[:2]:
            raise ValueError(f"The mask of {path} is {mask.shape[1]} x {mask.shape[0]}, the picture is another size.")
        prompt = captions.get(path, experiment.prompts[index % len(experiment.prompts)])
        fitted = None if mask is None else fit(mask[..., None].repeat(3, -1) * np.uint8(255), size)[..., 0] >= 128
        scenes.append(Scene(escape(path.stem), fit(picture, size), prompt, fitted))
    return scenes


def read_masks(folder: Path, pictures: Sequence[Path]) -> dict[Path, Bool[np.ndarray, "H W"]]:
    """Returns the masks of pictures by their name without its ending: a picture that is not black on objects.

    Raises:
        ValueError: none of the pictures has one.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; give a folder of masks, named as the pictures.")
    there = {path.stem: path for path in _pictures(folder)}
    found = {path: load_image(there[path.stem]).max(-1) > 0 for path in pictures if path.stem in there}
    if not found:
        raise ValueError(f"{folder} holds no mask of a picture; a mask is named as its picture, such as cat.png.")
    return found


def evaluation_photos(experiment: Experiment, count: int = COUNT) -> dict[str, tuple[UInt8[np.ndarray, "H W 3"], str]]:
    """Returns (picture, prompt) by name: photos that training never saw.

    These are the held-out photos of scikit-image's wheel, of which no synthetic training clip is made: each whole and
    in closer views, until there are `count`. Prompts are the experiment's, in turn, or what the photo shows if these
    say nothing.
    """
    size, prompts = experiment.system.size, experiment.prompts
    photos, found = read_photos(SKIMAGE_PHOTOS, HELD_OUT, "held_out", 1024).photos, {}
    for index in range(count):
        times, which = divmod(index, len(HELD_OUT))
        picture = fit(crop_closer(photos[which].levels[0], times), size)
        prompt = prompts[index % len(prompts)] if any(prompts) else photos[which].noun
        found[f"{HELD_OUT[which]} {times + 1}"] = (picture, prompt)
    return found


def crop_closer(picture: UInt8[np.ndarray, "H W 3"], times: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a closer view: `times` crops, each of 0.65 of the height and width, to the left and right in turn."""
    for turn in range(times):
        height, width = (round(CLOSER * side) for side in picture.shape[:2])
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) * (turn % 2)
        picture = picture[top : top + height, left : left + width]
    return picture


def _pictures(folder: Path) -> list[Path]:
    there = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return [path for path in there if not is_left_out(path.name)]


def _scene(example: Example) -> Scene:
    """The first frame of an example, and where its objects are if it says so."""
    mask = example[MASKS].any(0)[0] if MASKS in example else None
    return Scene(example["id"], example[VIDEO][0], example.get(CAPTION, ""), mask, example)
