"""Scores many video files: decodes ahead of the meter, measures in batches, goes on after bad files.

Threads look into the files and decode their windows (PyAV works outside Python's lock); the meter gets windows of one
size at a time, so a network sees few shapes. Records come as soon as all windows of a file are measured.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TextIO, TypeVar

from jaxmotion.meter.estimate import Clip, IdentifiedMeter, MotionEstimate
from jaxmotion.meter.progress import Progress
from jaxmotion.meter.record import make_record
from jaxmotion.meter.score_files import content_hash
from jaxmotion.meter.sinks import Record, Sink
from jaxmotion.meter.windows import DecodedWindows, Window, WindowPlan, WindowSpec, decode_windows, plan_windows

Item = TypeVar("Item")
Result = TypeVar("Result")
Key = TypeVar("Key")

MAX_WAITING = 8
"""Batches of windows that are held at most while they wait for more windows of their size."""


@dataclasses.dataclass
class Summary:
    """The outcome of a run, file by file."""

    records: list[Record] = dataclasses.field(default_factory=list)
    """Records of all files that have scores, those known from an earlier run included."""
    known: int = 0
    """Number of records known from an earlier run."""
    bad: dict[str, str] = dataclasses.field(default_factory=dict)
    """Reasons why the other files have no scores, by path."""


def score_videos(
    videos: Sequence[str],
    meter: IdentifiedMeter,
    sink: Sink,
    *,
    spec: WindowSpec,
    progress: TextIO,
    max_windows: int = 32,
    batch: int = 16,
    threads: int = 2,
    report_bad: Callable[[str, str], None] = lambda path, reason: None,
) -> Summary:
    """Scores videos into a sink.

    Files whose content the sink knows from this meter are not measured again; a copy under another path gets a record
    of its own.

    Args:
        videos: paths.
        meter: measures the windows.
        sink: takes the records, and has those of earlier runs.
        spec: the windows that the meter measures.
        progress: where the progress bar and the reasons are written.
        max_windows: windows of a video at most; 0: all.
        batch: windows that the meter is given at a time.
        threads: files that are read at a time.
        report_bad: called with the path of every file that cannot be scored, and the reason.
    """
    scoring = _Scoring(meter, sink, spec, max_windows, report_bad, Summary())
    pool = ThreadPoolExecutor(threads)
    try:
        with Progress(len(videos), progress) as bar:
            inspected = map_ahead(pool, scoring.inspect, videos, 4 * threads)
            decoded = map_ahead(pool, scoring.decode, scoring.groups(inspected, bar), threads + 2)
            for (file, window), estimate in measure_batches(scoring.clips(decoded, bar), meter, batch):
                file.measured.append((window, estimate))
                scoring.finish(file, bar)
    finally:
        pool.shutdown(cancel_futures=True)
    return scoring.summary


def map_ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[Result]:
    """Yields the results of `work` in the order of the items; up to `depth` run while the caller is busy."""
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def measure_batches(
    clips: Iterable[tuple[Key, Clip]], meter: IdentifiedMeter, batch: int
) -> Iterator[tuple[Key, MotionEstimate]]:
    """Yields the estimates of keyed clips, measured in batches of one shape."""
    waiting: dict[tuple[int, ...], list[tuple[Key, Clip]]] = defaultdict(list)

    def measure(shape: tuple[int, ...]) -> Iterator[tuple[Key, MotionEstimate]]:
        group = waiting.pop(shape)
        estimates = meter([clip for _, clip in group])
        yield from zip((key for key, _ in group), estimates, strict=True)

    for key, clip in clips:
        shape = clip.video.shape
        waiting[shape].append((key, clip))
        if len(waiting[shape]) == batch:
            yield from measure(shape)
        elif sum(map(len, waiting.values())) > MAX_WAITING * batch:
            yield from measure(max(waiting, key=lambda each: len(waiting[each])))
    for shape in list(waiting):
        yield from measure(shape)


@dataclasses.dataclass(frozen=True)
class _BadFile:
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class _KnownFile:
    record: Record
    moved: bool
    """Whether it was known under another path."""


@dataclasses.dataclass(eq=False)
class _File:
    """A file whose windows are being measured."""

    digest: str
    plan: WindowPlan
    size: tuple[int, int] = (0, 0)
    measured: list[tuple[Window, MotionEstimate]] = dataclasses.field(default_factory=list)
    losses: list[str] = dataclasses.field(default_factory=list)
    """Reasons why windows could not be decoded, one entry each."""
    cuts: int = 0
    further: int = 0
    """Windows that cuts have made, beside those that were planned."""

    @property
    def count(self) -> int:
        """Returns how many windows there are."""
        return sum(map(len, self.plan.groups)) + self.further


_Group = tuple[Window, ...]
_Inspected = _File | _KnownFile | _BadFile


@dataclasses.dataclass(frozen=True)
class _Scoring:
    """The steps of a run, each an iterator over the results of the one before."""

    meter: IdentifiedMeter
    sink: Sink
    spec: WindowSpec
    max_windows: int
    report_bad: Callable[[str, str], None]
    summary: Summary

    def inspect(self, path: str) -> _Inspected:
        """Looks into a file: known, bad, or to be measured. Runs in a thread."""
        try:
            digest = content_hash(path)
            same = [record for record in self.sink.records_of(digest) if self._is_current(record)]
            if same:
                return _KnownFile({**same[0], "path": path}, moved=path not in {record["path"] for record in same})
            return _File(digest, plan_windows(path, self.spec, self.max_windows))
        except OSError as error:
            return _BadFile(path, f"cannot be read: {error.strerror or error}")
        except (ValueError, ArithmeticError) as error:  # a damaged header can hold any number
            return _BadFile(path, str(error))

    def decode(self, work: tuple[_File, _Group]) -> tuple[_File, _Group, DecodedWindows]:
        """Decodes some windows of a file. Runs in a thread."""
        file, group = work
        return file, group, decode_windows(file.plan.path, group, self.spec)

    def groups(self, inspected: Iterable[_Inspected], bar: Progress) -> Iterator[tuple[_File, _Group]]:
        """Yields the groups of windows to decode; settles the files that need no measuring."""
        for outcome in inspected:
            if isinstance(outcome, _File):
                yield from ((outcome, group) for group in outcome.plan.groups)
            else:
                self._settle(outcome, bar)

    def clips(
        self, decoded: Iterable[tuple[_File, _Group, DecodedWindows]], bar: Progress
    ) -> Iterator[tuple[tuple[_File, Window], Clip]]:
        """Yields the windows to measure."""
        for file, group, found in decoded:
            file.size = file.size if any(file.size) else found.size
            file.cuts += found.cuts
            file.further += len(found.windows) - len(group)
            if not found.windows:
                self.finish(file, bar)
            for window, clip in zip(found.windows, found.clips, strict=True):
                if clip is not None:
                    yield (file, window), clip
                else:
                    file.losses.append(found.reason)
                    self.finish(file, bar)

    def finish(self, file: _File, bar: Progress) -> None:
        """Makes the record of a file once all its windows are measured or lost."""
        path = file.plan.path
        if len(file.measured) + len(file.losses) < file.count:
            return
        if not file.measured:
            self._settle(_BadFile(path, file.losses[0] if file.losses else "nothing but cuts in it"), bar)
            return
        try:
            record = make_record(
                file.plan,
                file.measured,
                size=file.size,
                lost=len(file.losses),
                cuts=file.cuts,
                digest=file.digest,
                meter=self.meter.name,
                max_windows=self.max_windows,
            )
        except ValueError as error:
            self._settle(_BadFile(path, str(error)), bar)
            return
        self.sink.add(record)
        self.summary.records.append(record)
        bar.done()

    def _is_current(self, record: Record) -> bool:
        """Returns whether this run would give the same record for that content."""
        return record["meter"] == self.meter.name and record.get("sampled", self.max_windows) == self.max_windows

    def _settle(self, outcome: _KnownFile | _BadFile, bar: Progress) -> None:
        """Counts a file that needs no measuring."""
        if isinstance(outcome, _KnownFile):
            self.summary.known += 1
            self.summary.records.append(outcome.record)
            if outcome.moved:
                self.sink.add(outcome.record)
        else:
            self.summary.bad[outcome.path] = outcome.reason
            self.report_bad(outcome.path, outcome.reason)
            bar.say(f"bad: {outcome.path}: {outcome.reason}")
        bar.done()
