"""Reads damaged files with the package's readers, in a process that may crash or hang: `python -m` this, see `main`."""

from __future__ import annotations

import json
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.support.mutations import mutate

ADDRESS_SPACE = 8 * 2**30
"""Bytes that a reader may ask for at most, so that a bad one does not take down the machine."""


def read_video(path: Path) -> None:
    from jaxmotion.meter.windows import WindowSpec, decode_windows, plan_windows
    from jaxmotion.video.decode import BadClipError, read_clip, read_size, read_timeline

    errors = []
    spec = WindowSpec(frames=4, canvas=lambda *_: (32, 32))
    readers: tuple[Callable[[], object], ...] = (
        lambda: read_timeline(str(path)),
        lambda: read_size(str(path)),
        lambda: [read_clip(str(path), 4, 8.0, (32, 32), where) for where in (0.0, 0.6)],
        lambda: [decode_windows(str(path), group, spec) for group in plan_windows(str(path), spec, 3).groups],
    )
    for read in readers:
        try:
            read()
        except BadClipError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def read_picture(path: Path) -> None:
    from jaxmotion.video.images import load_image

    load_image(path)


def read_list(path: Path) -> None:
    from jaxmotion.meter.score_files import find_videos
    from jaxmotion.video.listing import list_clips
    from jaxmotion.video.score_lists import read_scores

    errors = []
    readers: list[Callable[[], object]] = [lambda: list_clips(path), lambda: find_videos([str(path)])]
    if path.suffix == ".jsonl":
        readers.append(lambda: read_scores(path, path.parent, {}))
    for read in readers:
        try:
            read()
        except ValueError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def read_checkpoint(path: Path) -> None:
    from jaxmotion.weights.tensor_files import open_tensors

    for tensor in open_tensors(path).values():
        np.asarray(tensor)


READERS = {
    **dict.fromkeys((".mp4", ".gif"), read_video),
    ".png": read_picture,
    **dict.fromkeys((".jsonl", ".csv"), read_list),
    **dict.fromkeys((".safetensors", ".pt"), read_checkpoint),
}


def named_errors(suffix: str) -> tuple[type[Exception], ...]:
    """Returns the errors by which the reader of a kind of file may say that it is damaged."""
    from jaxmotion.foundation.errors import CheckpointFileError
    from jaxmotion.video.decode import BadClipError

    if suffix in (".mp4", ".gif"):
        return (BadClipError,)
    return (CheckpointFileError,) if suffix in (".safetensors", ".pt") else (ValueError,)


def main(folder: Path, sample: Path, start: int, stop: int) -> None:
    """Reads damaged copies of a sample; prints a line of JSON about each: its number and what came."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    data, suffix = sample.read_bytes(), sample.suffix
    for number in range(start, stop):
        path = folder / f"damaged{suffix}"
        path.write_bytes(mutate(data, [number, len(data)]))
        said = {"number": number}
        try:
            READERS[suffix](path)
        except named_errors(suffix) as error:
            # A clip's error is told beside its name; all others name the file.
            told = type(error).__name__ == "BadClipError" or path.stem in str(error)
            said["named" if type(error).__module__.startswith("jaxmotion") or told else "unnamed"] = str(error)[:300]
            if not told:
                said["unnamed"] = f"does not name the file: {error!r}"[:300]
        except BaseException as error:  # noqa: BLE001 - whatever comes is what the test is about
            where = "".join(traceback.format_tb(error.__traceback__)[-3:])
            said["unnamed"] = f"{error!r}"[:300] + where
        said["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
