"""Pairs of clips, judged by people as to which one moves more, by object and by camera: a csv or jsonl file.

    a,b,stronger_object,stronger_camera,who,seconds
    cat.mp4,train.mp4,b,tie,anna,6.4

`a` and `b` are paths from the file's folder on (or from a root). `stronger_object` and `stronger_camera` are `a`, `b`
or `tie`; empty where nobody judged. `who` judged and how many `seconds` it took may be missing. In jsonl, the same are
the keys of an object on each line. `python -m jaxmotion.score label` writes such files.

Source: MotionStone (arXiv:2412.05848, Motion Intensity Estimation) has 5,000 such pairs.
Not specified in the paper; we use: the file, and ties.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

from jaxmotion.foundation.files import atomic_file
from jaxmotion.foundation.text_files import escape, json_line, json_rows
from jaxmotion.video.list_files import csv_rows
from jaxmotion.video.motion_scale import AXES

Verdict = Literal["a", "b", "tie", ""]
"""Which one is stronger; empty: not judged."""
VERDICTS = get_args(Verdict)
STRONGER = tuple(f"stronger_{axis}" for axis in AXES)
"""Columns of a file and entries of a batch: which clip moves more, by axis."""
SECOND_VIDEO = "second_video"
"""Entry of a batch of pairs: the second clips, uint8 [B T h w 3]; the first are in `video`, perhaps in another shape.
Entries of single clips, such as scores, are [B 2] then."""
STEP_SECONDS, STEP_SHARES = "step_seconds", "step_shares"
"""Entries: seconds of a step from frame to frame, and how much it counts, [B T-1] or [B 2 T-1]; NaN: not told."""
COLUMNS = ("a", "b", *STRONGER)
ENDINGS = (".csv", ".jsonl")
NAMED = 5
"""So many missing clips are named in an error message."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two clips and which of them moves more."""

    a: str
    b: str
    stronger_object: Verdict
    stronger_camera: Verdict
    who: str = ""
    seconds: float = 0.0
    """How long the judging took; 0: not noted."""

    def __post_init__(self) -> None:
        for axis in COLUMNS[2:]:
            if getattr(self, axis) not in VERDICTS:
                raise ValueError(f"{axis} is {getattr(self, axis)!r}; it must be a, b or tie, or empty if not judged.")
        if not self.a or not self.b or self.a == self.b:
            raise ValueError(f"A pair needs two clips; got a={self.a!r} and b={self.b!r}.")


def read_pairs(path: Path) -> list[Pair]:
    """Reads the pairs in a .csv or .jsonl file, with the clips as they are written there.

    Raises:
        ValueError: the file has another form, a column is missing, or a value is none of those that there are.
    """
    _check_ending(path)
    pairs = []
    for number, row in csv_rows(path, COLUMNS) if path.suffix == ".csv" else json_rows(path):
        missing = [column for column in COLUMNS if column not in row]
        if missing:
            raise ValueError(f"{path}, line {number} has no {', '.join(missing)}; a pair has {', '.join(COLUMNS)}.")
        try:
            pairs.append(_pair(row))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return pairs


def write_pairs(pairs: Iterable[Pair], path: Path) -> None:
    """Writes a .csv or .jsonl file, as a whole.

    Raises:
        ValueError: the ending is another.
    """
    _check_ending(path)
    rows = [dataclasses.asdict(pair) for pair in pairs]
    if path.suffix == ".csv":
        text = io.StringIO()
        table = csv.DictWriter(text, [field.name for field in dataclasses.fields(Pair)], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        lines = text.getvalue()
    else:
        lines = "".join(map(json_line, rows))
    with atomic_file(path) as part:
        part.write_text(escape(lines), encoding="utf-8", newline="\n")


def locate_pairs(pairs: Sequence[Pair], root: Path) -> list[Pair]:
    """Returns the pairs with the full paths of their clips, which start at `root`: the folder of the file.

    Raises:
        FileNotFoundError: clips are missing.
    """
    missing = sorted({name for pair in pairs for name in (pair.a, pair.b) if not (root / name).is_file()})
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise FileNotFoundError(
            f"{len(missing)} clips of these pairs are not in {root}: {', '.join(missing[:NAMED])}{more}."
        )
    return [dataclasses.replace(pair, a=str(root / pair.a), b=str(root / pair.b)) for pair in pairs]


def _check_ending(path: Path) -> None:
    if path.suffix not in ENDINGS:
        raise ValueError(f"{path}: pairs are kept in a file that ends in {' or '.join(ENDINGS)}.")


def _pair(row: Mapping[str, object]) -> Pair:
    fields = {key: str(row.get(key) or "").strip() for key in (*COLUMNS, "who", "seconds")}
    try:
        seconds = float(fields.pop("seconds") or 0)
    except ValueError:
        raise ValueError(f"seconds is {row['seconds']!r}; it must be a number.") from None
    by_object, by_camera = (fields[axis].lower() for axis in COLUMNS[2:])
    return Pair(fields["a"], fields["b"], cast(Verdict, by_object), cast(Verdict, by_camera), fields["who"], seconds)
