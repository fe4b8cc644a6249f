"""Metrics of a run for TensorBoard.

`log` imports this when a run begins: tensorboardX imports PyTorch where it is installed, which takes seconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2 as _event_pb2

event_pb2: ModuleType = _event_pb2  # its classes are made at run time, out of sight of type checkers


class Events:
    """TensorBoard event file in a folder. Rows of an interrupted run from step `start` + 1 on are purged."""

    def __init__(self, folder: Path, start: int):
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        begin = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(event_pb2.Event(wall_time=time.time(), step=start + 1, session_log=begin))

    def add(self, step: int, numbers: Mapping[str, float | None]) -> None:
        """Writes the numbers of a step; None is left out."""
        for name, value in numbers.items():
            if value is not None:
                event = event_pb2.Event(wall_time=time.time(), step=step, summary=summary.scalar(name, value))
                self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
