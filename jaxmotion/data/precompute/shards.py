"""Writing a prepared set shard by shard, so that a kill costs one shard and nothing else.

Every shard holds the same clips whoever writes it, is written under another name, and takes its place with a note that
says what it holds. Process p of P writes the shards p, p + P, ...; whoever finds all notes there finishes the set.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tqdm import tqdm

from jaxmotion.data.buckets import Shape
from jaxmotion.data.precomputed import ARRAYS, BUCKETS, DIGEST, INFO, NAME, SETTINGS, SPLIT, datasets, digest_of
from jaxmotion.foundation.entries import CAMERA, IMAGE, OBJECT
from jaxmotion.foundation.files import PART, atomic_file
from jaxmotion.video.synthetic.captions import CAPTION

NOTES = "notes"
"""The folder of the notes, one for each finished shard."""
Examples = Sequence[Mapping[str, Any]]
Encode = Callable[[Examples], list[dict[str, Any]]]
"""Clips as a data source gives them, to the entries of their records."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be written.

    count: clips in all. per_shard: of one shard. at_once: clips that are encoded together.
    settings: everything that decides what a record holds, as JSON values.
    """

    folder: Path
    count: int
    per_shard: int
    at_once: int
    settings: Mapping[str, Any]

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.count // self.per_shard)

    def file(self, shard: int) -> Path:
        """Where a shard lies, as tensorflow-datasets names it."""
        return self.folder / f"{NAME}-{SPLIT}.array_record-{shard:05d}-of-{self.shards:05d}"

    def note(self, shard: int) -> Path:
        """What says that a shard is finished."""
        return self.folder / NOTES / f"{shard:05d}.json"

    def done(self, shard: int) -> bool:
        """Whether a shard is finished and its file is there, as long as it was."""
        note, file = self.note(shard), self.file(shard)
        return note.is_file() and file.is_file() and json.loads(note.read_text())["bytes"] == file.stat().st_size

    def clips(self, shard: int) -> range:
        """The clips of a shard."""
        return range(shard * self.per_shard, min((shard + 1) * self.per_shard, self.count))


def begin(job: Job) -> None:
    """Makes the folder, or checks that what is there was made with the same settings.

    Raises:
        ValueError: it holds a set of other settings, or something else.
    """
    there = _claimed(job.folder, SETTINGS, job.settings, "prepared set")
    asked = json.loads(json.dumps(job.settings))
    if there != asked:
        differing = ", ".join(list(_differences(there, asked))[:5])
        raise ValueError(
            f"{job.folder} holds a set that was prepared with other settings ({differing}); give another folder."
        )


def begin_buckets(folder: Path, shapes: Sequence[Shape]) -> None:
    """Makes the folder above the sets of these shapes, or checks that what is there has the same.

    Raises:
        ValueError: it holds other buckets, or something else.
    """
    names = sorted(map(str, shapes))
    there = _claimed(folder, BUCKETS, names, "prepared buckets")
    if there != names:
        raise ValueError(
            f"{folder} holds the buckets {', '.join(there)}; asked for are {', '.join(names)}. Give another folder."
        )


def _claimed(folder: Path, name: str, content: Any, what: str) -> Any:
    """The content of the file that says what a folder holds; an empty folder gets this one.

    Raises:
        ValueError: the folder holds something else.
    """
    path = folder / name
    if not path.is_file():
        if folder.is_dir() and not all(re.fullmatch(PART, each.name) for each in folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no {what}; give another folder.")
        with atomic_file(path) as part:
            part.write_text(json.dumps(content, indent=2) + "\n")
    return json.loads(path.read_text())


def write(job: Job, load: Callable[[int], Mapping[str, Any] | None], encode: Encode, process: int, of: int) -> int:
    """Writes this process's shards that are not finished, and returns how many records they hold.

    Args:
        load: the clip of an index, or None when it cannot be used.
    """
    mine = range(process, job.shards, of)
    todo = [shard for shard in mine if not job.done(shard)]
    total, left = (sum(len(job.clips(shard)) for shard in shards) for shards in (mine, todo))
    records = 0
    with tqdm(total=total, initial=total - left, desc="preparing", unit="clip", disable=None) as bar:
        for shard in todo:
            records += _write_shard(job, shard, load, encode, bar)
    return records


def finish(job: Job) -> bool:
    """Writes what tensorflow-datasets must know, if all shards are there. Says whether they are."""
    if not all(job.done(shard) for shard in range(job.shards)):
        return False
    notes = [json.loads(job.note(shard).read_text()) for shard in range(job.shards)]
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
                features=_features(tfds, notes[0]["shapes"] or _first(notes)),
                split_infos=[split],
                description="Clips encoded for training with jaxmotion.",
                check_data=False,
            )
            files = sorted(Path(made).glob("*.json"), key=lambda file: file.name == INFO)  # the sign of the end
            for file in files:
                with atomic_file(job.folder / file.name) as part:
                    part.write_bytes(file.read_bytes())
    return True


def _first(notes: Sequence[Mapping[str, Any]]) -> Any:
    return next(note["shapes"] for note in notes if note["shapes"])


def _write_shard(
    job: Job, shard: int, load: Callable[[int], Mapping[str, Any] | None], encode: Encode, bar: tqdm
) -> int:
    for place in (job.file(shard), job.note(shard)):
        for left in place.parent.glob(f".{place.name}.*.part"):  # of a process that was killed
            left.unlink(missing_ok=True)
    shapes: dict[str, Any] = {}
    count = 0
    with atomic_file(job.file(shard)) as part:
        writer = ArrayRecordWriter(str(part), "group_size:1")
        try:
            for record in _records(job, shard, load, encode, bar):
                shapes = shapes or {name: [list(record[name].shape), str(record[name].dtype)] for name in ARRAYS}
                writer.write(_serialised(_features(datasets(), shapes), record))
                count += 1
        finally:
            writer.close()
    note = {"records": count, "bytes": job.file(shard).stat().st_size, "shapes": shapes}
    with atomic_file(job.note(shard)) as part:
        part.write_text(json.dumps(note) + "\n")
    return count


def _records(
    job: Job, shard: int, load: Callable[[int], Mapping[str, Any] | None], encode: Encode, bar: tqdm
) -> Iterator[dict[str, Any]]:
    clips = job.clips(shard)
    for start in range(0, len(clips), job.at_once):
        indices = clips[start : start + job.at_once]
        examples = [example for index in indices if (example := load(index)) is not None]
        for example, entries in zip(examples, encode(examples) if examples else [], strict=True):
            yield _record(example, entries)
        bar.update(len(indices))


def _record(example: Mapping[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
    for name in ARRAYS:
        if not np.isfinite(entries[name]).all():
            raise ValueError(
                f"The {name} of {example['id']} are not finite in {entries[name].dtype}; prepare with --dtype float32."
            )
    file = io.BytesIO()
    Image.fromarray(entries[IMAGE]).save(file, "png")
    record = {
        **{name: np.ascontiguousarray(entries[name]) for name in ARRAYS},
        IMAGE: file.getvalue(),
        OBJECT: np.float32(entries[OBJECT]),
        CAMERA: np.float32(entries[CAMERA]),
        CAPTION: example[CAPTION].encode(),
        "id": str(example["id"]).encode(),
    }
    return {**record, DIGEST: digest_of(record)}


def _serialised(features: Any, record: Mapping[str, Any]) -> bytes:
    """A record as bytes, the same in every process: left to itself, protobuf writes entries in any order."""
    from tensorflow_datasets.proto import tf_example_pb2

    made = features.serialize_example(features.encode_example(record))
    return tf_example_pb2.Example.FromString(made).SerializeToString(deterministic=True)  # pyright: ignore


def _features(tfds: Any, shapes: Mapping[str, Any]) -> Any:
    kinds = tfds.features
    arrays = {name: kinds.Tensor(shape=tuple(shape), dtype=np.dtype(dtype)) for name, (shape, dtype) in shapes.items()}
    texts = {name: kinds.Text() for name in (IMAGE, CAPTION, "id", DIGEST)}
    scores = {name: kinds.Scalar(np.float32) for name in (OBJECT, CAMERA)}
    return kinds.FeaturesDict({**arrays, **texts, **scores})


def _differences(there: Any, asked: Any, path: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(asked, dict):
        for name in sorted({*there, *asked}):
            below = f"{path}.{name}" if path else name
            if name in there and name in asked:
                yield from _differences(there[name], asked[name], below)
            else:
                yield below
    elif there != asked:
        yield path
