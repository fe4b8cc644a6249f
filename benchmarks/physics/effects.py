"""Effects of cameras, editors and encoders that move nothing: light, focus, grain, marks, letters, bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from benchmarks.physics.clip import Clip

Pictures = Float[np.ndarray, "T H W 3"]
Settings = Mapping[str, float]
SPOKEN = "we never knew what was behind the door until someone opened it and the light came in again"


def add_effects(frames: UInt8[np.ndarray, "T H W 3"], clip: Clip) -> UInt8[np.ndarray, "T H W 3"]:
    """Returns the frames after all effects of a clip."""
    if not clip.effects:
        return frames
    pictures = frames.astype(np.float32)
    rng = np.random.default_rng([clip.seed, 7])
    for name, settings in clip.effects:
        pictures = EFFECTS[name](pictures, clip, settings, rng)
    return np.rint(np.clip(pictures, 0, 255)).astype(np.uint8)


def _seconds(clip: Clip) -> np.ndarray:
    return np.arange(len(clip.times)) / clip.fps


def _times_gain(pictures: Pictures, gain: np.ndarray) -> Pictures:
    return pictures * gain.astype(np.float32)[:, None, None, None]


def _exposure(pictures: Pictures, clip: Clip, settings: Settings, rng: np.random.Generator) -> Pictures:
    """Brightness goes from one factor to another between two moments."""
    share = np.clip((_seconds(clip) - settings["start"]) / (settings["end"] - settings["start"]), 0, 1)
    return _times_gain(pictures, settings["before"] + (settings["after"] - settings["before"]) * share)


def _flash(pictures: Pictures, clip: Clip, settings: Settings, rng: np.random.Generator) -> Pictures:
    """Light comes at once and goes within `seconds`; `every` so many seconds again, if above 0."""
    since = _seconds(clip) - settings["start"]
    if settings["every"]:
        since = np.where(since >= 0, np.mod(since, settings["every"]), since)
    light = np.where(since >= 0, np.exp(-np.maximum(since, 0) / settings["seconds"]), 0.0) * settings["strength"]
    share = light.astype(np.float32)[:, None, None, None]
    return pictures * (1 + share) + 60 * share


def _flicker(pictures: Pictures, clip: Clip, settings: Settings, rng: np.random.Generator) -> Pictures:
    wave = np.sin(2 * np.pi * settings["hertz"] * _seconds(clip) + settings["phase"])
    return _times_gain(pictures, 1 + settings["strength"] * wave)


def _fade(pictures: Pictures, clip: Clip, settings: Settings, rng: np.random.Generator) -> Pictures:
    """Towards one grey, between two moments; from it if `back`."""
    share = np.clip((_seconds(clip) - settings["start"]) / (settings["end"] - settings["start"]), 0, 1)
    share = settings["most"] * (1 - share if settings["back"] else share)
    share = share.astype(np.float32)[:, None, None, None]
    return pictures * (1 - share) + settings["grey"] * share


def _focus(pictures: Pictures, clip: Clip, settings: Settings, rng: np.random.Generator) -> Pictures:
    """Blur whose width, in thousandths of the diagonal, goes from `before` to `after`."""
    sigmas = np.linspace(settings["before"], settings["after"], len(pictures)) * clip.diagonal / 1000
    return np.stack(
        [
            cv2.GaussianBlur(picture, (0, 0), max(sigma, 1e-3))
            for picture, sigma in zip(pictures, sigmas.tolist(), strict=True)
        ]
    )


def _noise(pictures: Pictures, clip: Clip, settings: Settings, rng: np.random.Generator) -> Pictures:
    grain = rng.standard_normal(pictures.shape, np.float32) * np.float32(settings["sigma"])
    if settings.get("coarse"):
        grain = np.stack([cv2.GaussianBlur(each, (0, 0), 1.0) * 3 for each in grain])
    return pictures + grain


def _bars(pictures: Pictures, clip: Clip, settings: Settings, rng: np.random.Generator) -> Pictures:
    """Black at two opposite sides, each with a share of the frame."""
    pictures = pictures.copy()
    across, down = round(clip.width * settings["sides"]), round(clip.height * settings["ends"])
    if across:
        pictures[:, :, :across], pictures[:, :, -across:] = settings["grey"], settings["grey"]
    if down:
        pictures[:, :down], pictures[:, -down:] = settings["grey"], settings["grey"]
    return pictures


def _mark(pictures: Pictures, clip: Clip, settings: Settings, rng: np.random.Generator) -> Pictures:
    """A translucent text that stays where it is: in the middle, in a corner, or all over the frame in rows."""
    words = ("shutterstock", "iStock by Getty", "dreamstime", "©  Videvo", "SAMPLE", "pond5")
    word = words[int(rng.integers(len(words)))]
    cover = np.zeros((clip.height, clip.width), np.float32)
    height = settings["height"] * min(clip.width, clip.height)
    letters = draw_letters(word, height, settings["width"] * clip.width)
    if settings["rows"]:
        turned = _paste_rows(letters, clip)
        cover = np.maximum(cover, turned)
    else:
        x = settings["x"] * (clip.width - letters.shape[1])
        y = settings["y"] * (clip.height - letters.shape[0])
        _paste(cover, letters, round(x), round(y))
    if settings["small"]:
        small = draw_letters(f"{rng.integers(10**7, 10**9)}", height / 2, clip.width / 3)
        _paste(cover, small, clip.width - small.shape[1] - 3, clip.height - small.shape[0] - 3)
    cover = settings["alpha"] * cover[..., None]
    return pictures * (1 - cover) + settings["grey"] * cover


def _subtitles(pictures: Pictures, clip: Clip, settings: Settings, rng: np.random.Generator) -> Pictures:
    """White sentences with a dark edge at the bottom, a new one every `seconds`."""
    words = SPOKEN.split()
    pictures = pictures.copy()
    count = int(len(pictures) / clip.fps / settings["seconds"]) + 1
    covers = []
    for _ in range(count):
        first = int(rng.integers(0, 12))
        sentence = " ".join(words[first : first + int(rng.integers(3, 6))])
        covers.append(draw_letters(sentence, 0.075 * clip.height + 4, 0.9 * clip.width))
    for t, picture in enumerate(pictures):
        letters = covers[int(t / clip.fps / settings["seconds"])]
        cover = np.zeros((clip.height, clip.width), np.float32)
        _paste(cover, letters, (clip.width - letters.shape[1]) // 2, round(clip.height * 0.93) - letters.shape[0])
        edge = cv2.dilate(cover, np.ones((3, 3), np.uint8))[..., None]
        picture *= 1 - edge
        picture += 245 * cover[..., None]
    return pictures


def _paste(cover: np.ndarray, letters: np.ndarray, x: int, y: int) -> None:
    x, y = max(x, 0), max(y, 0)
    part = cover[y : y + letters.shape[0], x : x + letters.shape[1]]
    np.maximum(part, letters[: part.shape[0], : part.shape[1]], out=part)


def _paste_rows(letters: np.ndarray, clip: Clip) -> np.ndarray:
    """Fills the frame with a text, on the slant."""
    side = clip.width + clip.height
    tall, wide = letters.shape[0] * 4, round(letters.shape[1] * 1.5)
    tile = np.zeros((tall, wide), np.float32)
    tile[: letters.shape[0], : letters.shape[1]] = letters
    sheet = np.tile(tile, (side // tall + 1, side // wide + 1))[:side, :side]
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), 25, 1.0)
    turn[:, 2] += [(clip.width - side) / 2, (clip.height - side) / 2]
    return cv2.warpAffine(sheet, turn, (clip.width, clip.height), flags=cv2.INTER_LINEAR)


@cache
def draw_letters(text: str, height: float, width: float) -> Float[np.ndarray, "h w"]:
    """Returns how much a text covers each pixel, 0..1; it is that high, or less so that it is not too wide."""
    font = ImageFont.load_default(max(height, 6))
    left, top, right, bottom = font.getbbox(text)
    if right - left > width:
        font = ImageFont.load_default(max(height * width / (right - left), 6))
        left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), text, fill=255, font=font)
    return np.asarray(image, np.float32) / 255


EFFECTS: Mapping[str, Callable[[Pictures, Clip, Settings, np.random.Generator], Pictures]] = {
    "exposure": _exposure,
    "flash": _flash,
    "flicker": _flicker,
    "fade": _fade,
    "focus": _focus,
    "noise": _noise,
    "bars": _bars,
    "mark": _mark,
    "subtitles": _subtitles,
}
