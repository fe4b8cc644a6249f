"""Writing a precomputed set shard by shard, so that a kill costs one shard and nothing else.

Every shard holds the same clips whoever writes it, is written under another name, and takes its place with a note that
says what it holds. Job p of P writes the shards p, p + P, ...; whoever finds all notes there finishes the set.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, TypeVar

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from jaxmotion.data.precompute.records import (
    DIGEST,
    ID,
    Kind,
    Layout,
    Stored,
    kind_of,
    tfds_features,
    to_bytes_or_array,
)
from jaxmotion.data.precompute.settings import ENCODERS, LABELS, SETTINGS, differences, upgrade
from jaxmotion.data.precomputed import BUCKETS, INFO, NAME, SPLIT, datasets
from jaxmotion.data.source import Example, Shape
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.example import Value
from jaxmotion.foundation.files import PART, atomic_file, read_json
from jaxmotion.foundation.text_files import escape, whole_rows

if TYPE_CHECKING:
    from tensorflow_datasets.core.features import FeaturesDict

Content = TypeVar("Content")
NOTES = "notes"
"""The folder of the notes, one for each finished shard."""
Load = Callable[[int], Example | None]
"""Loads the clip of an index; None when it cannot be used."""
Encode = Callable[[Sequence[Example]], list[dict[str, Value]]]
"""Clips as a data source gives them, to the values of their records."""


class _Note(TypedDict):
    """Content of the note of a finished shard."""

    records: int
    bytes: int
    kinds: NotRequired[Mapping[str, Kind]]  # lacking in those of earlier versions


@dataclasses.dataclass(frozen=True)
class Job:
    """A precomputed set to be written.

    count: records in all. per_shard: records of one shard. at_once: clips that are encoded together.
    settings: everything that decides a record, as JSON values; see `settings`.
    """

    folder: Path
    count: int
    per_shard: int
    at_once: int
    settings: Json

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.count // self.per_shard)

    def file(self, shard: int) -> Path:
        """Returns the path of a shard, as tensorflow-datasets names it."""
        return self.folder / f"{NAME}-{SPLIT}.array_record-{shard:05d}-of-{self.shards:05d}"

    def note(self, shard: int) -> Path:
        """Returns the path of the note that says that a shard is finished."""
        return self.folder / NOTES / f"{shard:05d}.json"

    def done(self, shard: int) -> bool:
        """Says whether a shard is finished, and its file and its note are whole."""
        note, file = self.note(shard), self.file(shard)
        if not (note.is_file() and file.is_file()):
            return False
        rows = whole_rows(note.read_text(encoding="utf-8", errors="replace"))
        return len(rows) == 1 and {"records", "bytes"} <= set(rows[0]) and rows[0]["bytes"] == file.stat().st_size

    @property
    def labels(self) -> Sequence[str]:
        """Names of the labels, in the order of the settings."""
        return self.settings.get(ENCODERS, {}).get(LABELS, ())

    def clips(self, shard: int) -> range:
        """Returns the indices of the clips of a shard."""
        return range(shard * self.per_shard, min((shard + 1) * self.per_shard, self.count))


def begin(job: Job) -> None:
    """Makes the folder, or checks that what is there was made with the same settings.

    Raises:
        ValueError: it holds a set of other settings, or something else.
    """
    there = upgrade(_claim(job.folder, SETTINGS, job.settings, "prepared set"), like=job.settings)
    differing = list(differences(there, upgrade(job.settings)))
    if differing:
        raise ValueError(
            f"{job.folder} holds a set that was prepared with other settings ({', '.join(differing[:5])}); give "
            "another folder."
        )


def begin_buckets(folder: Path, shapes: Sequence[Shape]) -> None:
    """Makes the folder above the sets of these shapes, or checks that what is there has the same.

    Raises:
        ValueError: it holds other buckets, or something else.
    """
    names = sorted(map(str, shapes))
    there = _claim(folder, BUCKETS, names, "prepared buckets")
    if there != names:
        raise ValueError(
            f"{folder} holds the buckets {', '.join(there)}; asked for are {', '.join(names)}. Give another folder."
        )


def _claim(folder: Path, name: str, content: Content, what: str) -> Content:
    """Returns the content of the file that says what a folder holds; an empty folder gets this one.

    Raises:
        ValueError: the folder holds something else.
    """
    path = folder / name
    if not path.is_file():
        if folder.is_dir() and not all(re.fullmatch(PART, each.name) for each in folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no {what}; give another folder.")
        with atomic_file(path) as part:
            part.write_text(json.dumps(content, indent=2) + "\n")
    return read_json(path)


def write(job: Job, load: Load, encode: Encode, shard_index: int = 0, shard_count: int = 1) -> int:
    """Writes the shards of this process that are not finished, and returns how many records they hold.

    Args:
        shard_index, shard_count: which of how many processes this is.
    """
    mine = range(shard_index, job.shards, shard_count)
    todo = [shard for shard in mine if not job.done(shard)]
    total, left = (sum(len(job.clips(shard)) for shard in shards) for shards in (mine, todo))
    records = 0
    with tqdm(total=total, initial=total - left, desc="preparing", unit="clip", disable=None) as bar:
        for shard in todo:
            records += _write_shard(job, shard, load, encode, bar)
    return records


def finish(job: Job) -> bool:
    """Writes the files that tensorflow-datasets reads first, if all shards are there; says whether they are."""
    if not all(job.done(shard) for shard in range(job.shards)):
        return False
    notes: list[_Note] = [read_json(job.note(shard)) for shard in range(job.shards)]
    if not sum(note["records"] for note in notes):
        raise ValueError(f"None of the {job.count} clips could be used; nothing was prepared.")
    tfds = datasets()
    template = tfds.core.ShardedFileTemplate(
        data_dir=job.folder, dataset_name=NAME, split=SPLIT, filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=[note["records"] for note in notes],
        num_bytes=sum(note["bytes"] for note in notes),
        filename_template=template,
    )
    if not (job.folder / INFO).is_file():
        with tempfile.TemporaryDirectory() as made:
            for shard in range(job.shards):
                (Path(made) / job.file(shard).name).touch()  # their names are read
            tfds.folder_dataset.write_metadata(
                data_dir=made,
                features=tfds_features(tfds, _kinds(job, notes)),
                split_infos=[split],
                description="Clips encoded for training with jaxmotion.",
                check_data=False,
            )
            files = sorted(Path(made).glob("*.json"), key=lambda file: file.name == INFO)  # the sign of the end
            for file in files:
                with atomic_file(job.folder / file.name) as part:
                    part.write_bytes(file.read_bytes())
    return True


def _kinds(job: Job, notes: Sequence[_Note]) -> Mapping[str, Kind]:
    """Returns the kinds of the values of a record.

    Raises:
        ValueError: the shards were written by an earlier version, whose notes do not tell.
    """
    found = next((kinds for note in notes if (kinds := note.get("kinds"))), None)
    if found is None:
        raise ValueError(f"{job.folder} was begun by an earlier version and not finished; give another folder.")
    return found


def _write_shard(job: Job, shard: int, load: Load, encode: Encode, bar: tqdm) -> int:
    for place in (job.file(shard), job.note(shard)):
        for left in place.parent.glob(f".{place.name}.*.part"):  # of a process that was killed
            left.unlink(missing_ok=True)
    kinds: dict[str, Kind] = {}
    count = 0
    with atomic_file(job.file(shard)) as part:
        writer = ArrayRecordWriter(str(part), "group_size:1")
        try:
            for clip_id, values in _values(job, shard, load, encode, bar):
                kinds = kinds or {name: kind_of(value) for name, value in values.items()}
                record = _record(clip_id, values, Layout.from_kinds(kinds, job.labels))
                writer.write(_serialise(tfds_features(datasets(), kinds), record))
                count += 1
        finally:
            writer.close()
    note: _Note = {"records": count, "bytes": job.file(shard).stat().st_size, "kinds": kinds}
    with atomic_file(job.note(shard)) as part:
        part.write_text(json.dumps(note) + "\n")
    return count


def _values(job: Job, shard: int, load: Load, encode: Encode, bar: tqdm) -> Iterator[tuple[str, dict[str, Value]]]:
    """Yields the id and the values of every record of a shard."""
    clips = job.clips(shard)
    for start in range(0, len(clips), job.at_once):
        indices = clips[start : start + job.at_once]
        examples = [example for index in indices if (example := load(index)) is not None]
        for example, values in zip(examples, encode(examples) if examples else [], strict=True):
            yield str(example[ID]), values
        bar.update(len(indices))


def _record(clip_id: str, values: Mapping[str, Value], layout: Layout) -> dict[str, Stored]:
    for name in layout.arrays:
        array = np.asarray(values[name])
        if not np.isfinite(array).all():
            raise ValueError(f"The {name} of {clip_id} are not finite in {array.dtype}; prepare with --dtype float32.")
    record = {name: to_bytes_or_array(value) for name, value in values.items()}
    record[ID] = escape(clip_id).encode()
    return {**record, DIGEST: layout.digest(record)}


def _serialise(features: FeaturesDict, record: Mapping[str, Stored]) -> bytes:
    """Returns a record as bytes, the same in every process: left to itself, protobuf writes entries in any order."""
    from tensorflow_datasets.proto import tf_example_pb2

    made = features.serialize_example(features.encode_example(record))
    return tf_example_pb2.Example.FromString(made).SerializeToString(deterministic=True)  # pyright: ignore
