"""The report of clips that cannot be used: one line for each, however many processes come across it."""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path

from jaxmotion.foundation.text_files import json_line, whole_rows
from jaxmotion.video.listing import ClipFile

log = logging.getLogger(__name__)


class BadClips:
    """Clips that cannot be used and why, in a file of JSON lines with `id`, `path` and `reason`.

    The file is shared by all processes of a run and by the run that continues it, and names every clip once.
    """

    def __init__(self, report: Path | None):
        self.report = report
        self.reasons: dict[str, str] = {}

    def add(self, file: ClipFile, reason: str) -> None:
        """Notes a clip and logs it, unless that has been done."""
        if file.id in self.reasons:
            return
        self.reasons[file.id] = reason
        if self.report is None or self._write(self.report, file, reason):
            log.warning("%s cannot be used: %s", file.path, reason)

    def _write(self, report: Path, file: ClipFile, reason: str) -> bool:
        """Adds a line, if no other process did; the lock keeps them from doing it at the same time."""
        report.parent.mkdir(parents=True, exist_ok=True)
        with report.open("a+", encoding="utf-8", errors="replace") as lines:
            fcntl.flock(lines, fcntl.LOCK_EX)
            lines.seek(0)
            known = lines.read()
            if file.path in (row.get("path") for row in whole_rows(known)):
                return False
            if known and not known.endswith("\n"):
                lines.write("\n")
            lines.write(json_line({"id": file.id, "path": file.path, "reason": reason}))
            lines.flush()
        return True
