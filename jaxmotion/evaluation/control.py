"""The control curve: does a clip move as much as was asked?

Every photo is animated at every level with every seed; the motion of the clips is measured, and what was measured is
compared with what was asked.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from rich.table import Table
from scipy import stats
from tqdm import tqdm

from jaxmotion.evaluation.measures import LABELS, MEASURES, Measure

Generate = Callable[
    [UInt8[np.ndarray, "N H W 3"], list[str], Sequence[int], int],
    UInt8[np.ndarray, "N T H W 3"],
]
"""(pictures, prompts, levels, seed) to clips, one for each picture."""
OnClips = Callable[[int, int, UInt8[np.ndarray, "L T H W 3"]], None]
"""Called with (photo, seed, its clips at all levels)."""

CONTROL = "evaluate/control.json"
"""Where the numbers of a run are written, in the folder of the run."""


@dataclasses.dataclass(frozen=True)
class Control:
    """What was measured: for each measure, the motion of every clip, [photos levels seeds]."""

    photos: tuple[str, ...]
    levels: tuple[int, ...]
    seeds: tuple[int, ...]
    fps: float
    motion: Mapping[str, Float[np.ndarray, "photos levels seeds"]]

    def __post_init__(self) -> None:
        shape = (len(self.photos), len(self.levels), len(self.seeds))
        for name, values in self.motion.items():
            if values.shape != shape:
                raise ValueError(
                    f"The measure {name!r} has values {values.shape} for (photos, levels, seeds) = {shape}."
                )
            if not np.all(np.isfinite(values)):
                photo, level, seed = np.argwhere(~np.isfinite(values))[0]
                raise ValueError(
                    f"The measure {name!r} is not finite for the photo {self.photos[photo]!r} at level "
                    f"{self.levels[level]}, seed {self.seeds[seed]}."
                )


def measure_control(
    generate: Generate,
    photos: Mapping[str, tuple[UInt8[np.ndarray, "H W 3"], str]],
    *,
    levels: Sequence[int] = tuple(range(1, 11)),
    seeds: Sequence[int] = (0, 1),
    fps: float,
    measures: Mapping[str, Measure] = MEASURES,
    on_clips: OnClips | None = None,
) -> Control:
    """Animate and measure photos x levels x seeds, with a progress bar.

    Args:
        generate: makes the clips; called once for each photo and seed, with all levels.
        photos: (picture, prompt) by name; pictures that were not trained on.
        levels: what is asked for, ascending, at least two.
        seeds: each gives one clip for each photo and level.
        fps: frames per second of the clips.
        measures: by name; larger means more motion.
        on_clips: sees the clips, which are not kept.

    Raises:
        ValueError: no photos or seeds, fewer than two levels, or a measure that fails on a clip.
    """
    levels, seeds = tuple(levels), tuple(seeds)
    if not photos or not seeds or not measures:
        raise ValueError(
            "The control curve needs at least one photo, one seed and one measure; got "
            f"{len(photos)} photos, {len(seeds)} seeds, {len(measures)} measures."
        )
    if len(levels) < 2 or any(b <= a for a, b in itertools.pairwise(levels)):
        raise ValueError(f"The control curve needs two or more ascending levels; got {levels}.")
    motion = {name: np.zeros((len(photos), len(levels), len(seeds))) for name in measures}
    total = len(photos) * len(levels) * len(seeds)
    with tqdm(total=total, desc="control curve", unit="clip", disable=None) as bar:
        for p, (picture, prompt) in enumerate(photos.values()):
            for s, seed in enumerate(seeds):
                clips = generate(np.stack([picture] * len(levels)), [prompt] * len(levels), levels, seed)
                for name, measure in measures.items():
                    motion[name][p, :, s] = measure(clips, fps)
                if on_clips is not None:
                    on_clips(p, s, clips)
                bar.update(len(levels))
    return Control(tuple(photos), levels, seeds, fps, motion)


def summary(control: Control) -> dict[str, Any]:
    """The numbers of a control curve, as JSON values. For each measure NAME:

    spearman_NAME:            Spearman's rho of asked level and measured motion over all clips; 0 if nothing varies.
    spearman_per_photo_NAME:  the same for each photo by itself, averaged.
    monotonicity_NAME:        the share of steps from one level to the next at which a photo's motion (mean over the
                              seeds) rises.
    level1_over_level10_NAME: mean motion of level 1 over that of level 10; None if level 10 does not move, or if one of
                              them was not asked for.

    level1_over_level10 is the largest of these ratios: level 1 is at least that still by every measure.
    """
    levels = np.asarray(control.levels)
    numbers: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    for name, values in control.motion.items():
        per_photo = values.mean(axis=2)
        numbers[f"spearman_{name}"] = _spearman(levels, values)
        numbers[f"spearman_per_photo_{name}"] = float(np.mean([_spearman(levels, photo[None]) for photo in values]))
        numbers[f"monotonicity_{name}"] = float(np.mean(np.diff(per_photo, axis=1) > 0.0))
        numbers[f"level1_over_level10_{name}"] = _ratio(control.levels, values)
        curves[name] = {
            "mean": values.mean(axis=(0, 2)).tolist(),
            "deviation": values.std(axis=(0, 2)).tolist(),
            "photos": dict(zip(control.photos, per_photo.tolist(), strict=True)),
        }
    ratios = [numbers[f"level1_over_level10_{name}"] for name in control.motion]
    return {
        **numbers,
        "level1_over_level10": None if None in ratios else max(ratios),
        "levels": list(control.levels),
        "seeds": list(control.seeds),
        "photos": list(control.photos),
        "clips": len(control.photos) * len(control.levels) * len(control.seeds),
        "fps": control.fps,
        "curve": curves,
    }


def table(numbers: Mapping[str, Any]) -> Table:
    """The numbers of `summary` for people."""
    names = list(numbers["curve"])
    shown = Table(title=f"Control curve: {numbers['clips']} clips of {len(numbers['photos'])} photos")
    shown.add_column("")
    for name in names:
        shown.add_column(LABELS.get(name, (name, ""))[0], justify="right")
    for row, level in enumerate(numbers["levels"]):
        curves = (numbers["curve"][name] for name in names)
        shown.add_row(f"level {level}", *(f"{c['mean'][row]:.4f} ± {c['deviation'][row]:.4f}" for c in curves))
    shown.add_section()
    for label, key in (
        ("Spearman's rho, all clips", "spearman"),
        ("Spearman's rho, per photo", "spearman_per_photo"),
        ("monotonicity", "monotonicity"),
        ("level 1 over level 10", "level1_over_level10"),
    ):
        values = (numbers[f"{key}_{name}"] for name in names)
        shown.add_row(label, *("-" if value is None else f"{value:.3f}" for value in values))
    return shown


def write(numbers: Mapping[str, Any], directory: Path) -> Path:
    """Write `control.json` into the folder of a run, whole or not at all, and return its path."""
    path = directory / CONTROL
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    part.replace(path)
    return path


def _spearman(levels: np.ndarray, values: Float[np.ndarray, "photos levels seeds"]) -> float:
    """Spearman's rho of level and value over all entries; 0 where all values are equal and have no order."""
    if np.ptp(values) == 0.0:
        return 0.0
    asked = np.broadcast_to(levels[None, :, None], values.shape)
    return float(np.asarray(stats.spearmanr(asked.ravel(), values.ravel()))[0])


def _ratio(levels: tuple[int, ...], values: Float[np.ndarray, "photos levels seeds"]) -> float | None:
    """Mean motion of level 1 over that of level 10."""
    if 1 not in levels or 10 not in levels:
        return None
    still, lively = (float(values[:, levels.index(level)].mean()) for level in (1, 10))
    return still / lively if lively > 0.0 else None
