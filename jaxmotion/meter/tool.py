"""Scores many video files: reading ahead of the meter, in batches, going on after bad files.

Threads look into the files and decode their windows (PyAV works outside Python's lock); the meter gets windows of one
size at a time, so a network sees few shapes. Records come as soon as all windows of a file are measured.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TextIO, TypeVar

from jaxmotion.meter.estimate import Clip, Reading
from jaxmotion.meter.progress import Progress
from jaxmotion.meter.record import record_of
from jaxmotion.meter.score_files import content_hash
from jaxmotion.meter.sinks import Record, Sink
from jaxmotion.meter.windows import Part, Plan, Span, Wanted, plan, read

Item = TypeVar("Item")
Result = TypeVar("Result")
Key = TypeVar("Key")

HELD = 8
"""So many batches of windows are held at most while they wait for more of their size."""


class NamedMeter(Protocol):
    """A meter whose scores can be told from those of another."""

    @property
    def name(self) -> str:
        """Says which meter it is, with which weights."""
        ...

    def __call__(self, clips: Sequence[Clip]) -> list[Reading]:
        """One reading for each clip."""
        ...


@dataclasses.dataclass
class Tally:
    """What became of the files of a run."""

    records: list[Record] = dataclasses.field(default_factory=list)
    """Of all that have scores, those known from an earlier run included."""
    known: int = 0
    """How many were known."""
    bad: dict[str, str] = dataclasses.field(default_factory=dict)
    """Why the others have none, by path."""


def score_videos(
    videos: Sequence[str],
    meter: NamedMeter,
    sink: Sink,
    *,
    wanted: Wanted,
    progress: TextIO,
    most: int = 32,
    batch: int = 16,
    threads: int = 2,
    bad: Callable[[str, str], None] = lambda path, reason: None,
) -> Tally:
    """Scores the videos, into the sink.

    Files whose content the sink knows from this meter are not measured again; a copy under another path gets a record
    of its own.

    Args:
        videos: paths.
        meter: what measures.
        sink: where records go, and where those of earlier runs are found.
        wanted: what the meter wants to see.
        progress: where the progress bar and the reasons are written.
        most: windows of a video at most; 0: all.
        batch: windows that the meter is given at a time.
        threads: files that are read at a time.
        bad: is told the path of every file that cannot be scored, and the reason.
    """
    scoring = _Scoring(meter, sink, wanted, most, bad, Tally())
    pool = ThreadPoolExecutor(threads)
    try:
        with Progress(len(videos), progress) as bar:
            looked = ahead(pool, scoring.look, videos, 4 * threads)
            decoded = ahead(pool, scoring.decode, scoring.parts(looked, bar), threads + 2)
            for (file, span), reading in measured(scoring.windows(decoded, bar), meter, batch):
                file.measured.append((span, reading))
                scoring.finish(file, bar)
    finally:
        pool.shutdown(cancel_futures=True)
    return scoring.tally


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[Result]:
    """The results of `work` in the order of the items, so many of them under way while the caller is busy."""
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def measured(windows: Iterable[tuple[Key, Clip]], meter: NamedMeter, batch: int) -> Iterator[tuple[Key, Reading]]:
    """The readings of windows, measured in batches of one shape."""
    waiting: dict[tuple[int, ...], list[tuple[Key, Clip]]] = defaultdict(list)

    def measure(shape: tuple[int, ...]) -> Iterator[tuple[Key, Reading]]:
        group = waiting.pop(shape)
        readings = meter([clip for _, clip in group])
        yield from zip((key for key, _ in group), readings, strict=True)

    for key, clip in windows:
        shape = clip.video.shape
        waiting[shape].append((key, clip))
        if len(waiting[shape]) == batch:
            yield from measure(shape)
        elif sum(map(len, waiting.values())) > HELD * batch:
            yield from measure(max(waiting, key=lambda each: len(waiting[each])))
    for shape in list(waiting):
        yield from measure(shape)


@dataclasses.dataclass(frozen=True)
class _Bad:
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class _Known:
    record: Record
    moved: bool
    """Whether it was known under another path."""


@dataclasses.dataclass(eq=False)
class _File:
    """A file whose windows are being measured."""

    digest: str
    plan: Plan
    size: tuple[int, int] = (0, 0)
    measured: list[tuple[Span, Reading]] = dataclasses.field(default_factory=list)
    losses: list[str] = dataclasses.field(default_factory=list)
    """Why windows could not be decoded, one entry each."""


@dataclasses.dataclass(frozen=True)
class _Scoring:
    """The steps of a run, each an iterator over what the one before gives."""

    meter: NamedMeter
    sink: Sink
    wanted: Wanted
    most: int
    bad: Callable[[str, str], None]
    tally: Tally

    def look(self, path: str) -> _File | _Known | _Bad:
        """Looks into a file: known, bad, or what to measure of it. Runs in a thread."""
        try:
            digest = content_hash(path)
            same = [record for record in self.sink.known(digest) if self.fits(record)]
            if same:
                return _Known({**same[0], "path": path}, moved=path not in {record["path"] for record in same})
            return _File(digest, plan(path, self.wanted, self.most))
        except OSError as error:
            return _Bad(path, f"cannot be read: {error.strerror or error}")
        except (ValueError, ArithmeticError) as error:  # a damaged header can hold any number
            return _Bad(path, str(error))

    def fits(self, record: Record) -> bool:
        """Whether this run would say the same of that content."""
        return record["meter"] == self.meter.name and record.get("sampled", self.most) == self.most

    def decode(self, work: tuple[_File, tuple[Span, ...]]) -> tuple[_File, tuple[Span, ...], Part]:
        """Decodes some windows of a file. Runs in a thread."""
        file, part = work
        return file, part, read(file.plan.path, part, self.wanted)

    def parts(self, looked: Iterable[_File | _Known | _Bad], bar: Progress) -> Iterator[tuple[_File, tuple[Span, ...]]]:
        """What is to be decoded; files with nothing to decode are done."""
        for outcome in looked:
            if isinstance(outcome, _File):
                yield from ((outcome, part) for part in outcome.plan.parts)
            else:
                self.settle(outcome, bar)

    def windows(
        self, decoded: Iterable[tuple[_File, tuple[Span, ...], Part]], bar: Progress
    ) -> Iterator[tuple[tuple[_File, Span], Clip]]:
        """What is to be measured."""
        for file, part, found in decoded:
            file.size = file.size if any(file.size) else found.size
            for span, clip in zip(part, found.clips, strict=True):
                if clip is not None:
                    yield (file, span), clip
                else:
                    file.losses.append(found.reason)
                    self.finish(file, bar)

    def finish(self, file: _File, bar: Progress) -> None:
        """Makes the record of a file once all its windows are measured or lost."""
        path = file.plan.path
        if len(file.measured) + len(file.losses) < sum(map(len, file.plan.parts)):
            return
        if not file.measured:
            self.settle(_Bad(path, file.losses[0]), bar)
            return
        says = {"size": file.size, "digest": file.digest, "meter": self.meter.name, "most": self.most}
        try:
            record = record_of(file.plan, file.measured, **says)
        except ValueError as error:
            self.settle(_Bad(path, str(error)), bar)
            return
        self.sink.add(record)
        self.tally.records.append(record)
        bar.done()

    def settle(self, outcome: _Known | _Bad, bar: Progress) -> None:
        """Notes a file that needs no measuring."""
        if isinstance(outcome, _Known):
            self.tally.known += 1
            self.tally.records.append(outcome.record)
            if outcome.moved:
                self.sink.add(outcome.record)
        else:
            self.tally.bad[outcome.path] = outcome.reason
            self.bad(outcome.path, outcome.reason)
            bar.say(f"bad: {outcome.path}: {outcome.reason}")
        bar.done()
