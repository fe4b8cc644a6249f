"""HTTP server of a page and some clips, for this machine only: byte ranges so that browsers can seek, and JSON."""

from __future__ import annotations

import json
import mimetypes
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

import av
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from jaxmotion.foundation.config_json import Json, JsonValue
from jaxmotion.foundation.files import atomic_file, file_url
from jaxmotion.video.container import BadClipError, open_video
from jaxmotion.video.decode import Decoding
from jaxmotion.video.pictures import displayed_size, resize_frame
from jaxmotion.video.timeline_cache import timeline_of

Answers = Mapping[str, Callable[[Json], Mapping[str, JsonValue]]]
"""Functions by NAME: from the JSON object that the page sends to /NAME to the one that it gets back."""

HERE = ("localhost", "127.0.0.1", "[::1]")
CONVERTED_SIDE, CONVERTED_SECONDS = 480, 30.0
"""A clip that a browser cannot play is shown to it at this height or width at most, and at most for so long."""
LARGEST = 2**16
"""Bytes of JSON that the page may send."""


def serve(page: bytes, clips: Sequence[str], answers: Answers, port: int) -> None:
    """Serves until interrupted; prints the address.

    Raises:
        OSError: the port is taken.
    """
    with make_server(page, clips, answers, port) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def make_server(page: bytes, clips: Sequence[str], answers: Answers, port: int) -> ThreadingHTTPServer:
    """Returns a server that is not running yet; closing it removes the clips that it converted.

    - GET / is the page
    - GET /clip/3 the fourth clip as it is, /converted/3 the same as WebM for browsers that cannot play it
    - POST /NAME calls an answer

    Raises:
        OSError: the port is taken.
    """
    try:
        return _Server(page, clips, answers, port)
    except OSError as error:
        raise OSError(f"Port {port} cannot be used ({error.strerror or error}); choose another with --port.") from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, page: bytes, clips: Sequence[str], answers: Answers, port: int):
        self.page, self.clips, self.answers = page, clips, answers
        self.folder = Path(tempfile.mkdtemp(prefix="jaxmotion-"))
        self.converting = threading.Lock()
        super().__init__(("127.0.0.1", port), _Requests)

    def server_close(self) -> None:
        super().server_close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def webm_of(self, number: int, clip: str) -> Path:
        """Returns the clip as WebM, converted at its first request."""
        path = self.folder / f"{number}.webm"
        with self.converting:
            if not path.exists():
                convert(clip, path)
        return path


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        request = re.fullmatch(r"/(clip|converted)/(\d{1,9})", self.path)
        if not self._is_local():
            self._refuse(HTTPStatus.FORBIDDEN, "This page is for this machine only.")
        elif self.path == "/":
            self._give(self.server.page, "text/html; charset=utf-8")
        elif request and int(request[2]) < len(self.server.clips):
            self._give_clip(request[1], int(request[2]))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such thing.")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        # Browsers ask before they send JSON across sites, and nobody here says yes.
        if not self._is_local() or self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.FORBIDDEN, "This page is for this machine only.")
        elif self.path[1:] not in self.server.answers or not length.isdigit() or int(length) > LARGEST:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such thing.")
        else:
            try:
                message = json.loads(self.rfile.read(int(length)) or b"{}")
                answer = self.server.answers[self.path[1:]](message)
            except (ValueError, TypeError, AttributeError) as error:
                self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            except OSError as error:
                self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"Not saved: {error}")
            else:
                self._give(json.dumps(answer).encode(), "application/json")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the terminal belongs to the person who judges."""

    def _is_local(self) -> bool:
        """Returns whether the Host header names this machine; others that lead here are refused (DNS rebinding)."""
        return re.sub(r":\d+$", "", self.headers.get("Host", "")) in HERE

    def _give(self, body: bytes, kind: str) -> None:
        self._head(HTTPStatus.OK, kind, len(body))
        self.wfile.write(body)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        body = json.dumps({"error": why}).encode()
        self.close_connection = True  # what was sent along is not read
        self._head(status, "application/json", len(body), {"Connection": "close"})
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, length: int, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(length), "X-Content-Type-Options": "nosniff"}
        for name, value in {**headers, "Cache-Control": "no-store", **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _give_clip(self, form: str, number: int) -> None:
        try:
            path = Path(self.server.clips[number])
            path = self.server.webm_of(number, str(path)) if form == "converted" else path
            with path.open("rb") as file:
                size = path.stat().st_size
                window = byte_range(self.headers.get("Range", ""), size)
                if window is None:
                    self._head(
                        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                        "text/plain",
                        0,
                        {"Content-Range": f"bytes */{size}"},
                    )
                    return
                first, last = window
                part = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {first}-{last}/{size}"}
                kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
                status = HTTPStatus.PARTIAL_CONTENT if "Range" in self.headers else HTTPStatus.OK
                self._head(status, kind, last + 1 - first, part if status == HTTPStatus.PARTIAL_CONTENT else {})
                file.seek(first)
                _copy_bytes(file, self.wfile, last + 1 - first)
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # browsers leave as soon as they have what they need
        except (BadClipError, OSError) as error:
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, str(error))


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Returns the first and last byte that a Range header requests; all without one; None if there are no such bytes.

    Source: RFC 9110, section 14.1.2, one range. Anything else counts as no header, as it says.
    """
    request = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
    if not request or not any(request.groups()):
        return 0, size - 1
    first, last = request.groups()
    if not first:
        return (max(0, size - int(last)), size - 1) if int(last) and size else None
    end = min(int(last) if last else size - 1, size - 1)
    return (int(first), end) if int(first) <= end else None


def convert(clip: str, path: Path) -> None:
    """Writes a clip as a small WebM that browsers can play, frame by frame at the same times.

    Raises:
        BadClipError: it cannot be read.
    """
    tick = Fraction(1, 1000)
    reformatter = VideoReformatter()
    with (
        atomic_file(path) as part,
        open_video(clip) as (container, stream),
        av.open(file_url(part), "w", "webm") as out,
    ):
        timeline = timeline_of(clip, container, stream)
        seconds = timeline.seconds - timeline.seconds[0]
        shown = timeline.pts[seconds <= CONVERTED_SECONDS]
        video: VideoStream | None = None
        for frame in Decoding(container, stream, timeline.packets).frames_at(shown, None):
            if video is None:
                height, width = displayed_size(frame, stream)
                shrink = min(1.0, CONVERTED_SIDE / min(height, width))
                size = (max(2, round(height * shrink / 2) * 2), max(2, round(width * shrink / 2) * 2))
                video = out.add_stream("libvpx-vp9", rate=round(stream.average_rate or 25) or 25)
                video.height, video.width, video.pix_fmt, video.bit_rate = *size, "yuv420p", 4_000_000
                video.codec_context.time_base = tick
                video.options = {"deadline": "realtime", "cpu-used": "8", "row-mt": "1"}
            picture = av.VideoFrame.from_ndarray(resize_frame(frame, size, reformatter), "rgb24")
            begins = (int(frame.pts or 0) - int(timeline.pts[0])) * timeline.tick
            picture.pts, picture.time_base = round(begins * 1000), tick
            out.mux(video.encode(picture))
        if video is None:
            raise BadClipError("no frames in it")
        out.mux(video.encode())


def _copy_bytes(source: BinaryIO, target: BufferedIOBase, count: int) -> None:
    while count > 0:
        block = source.read(min(count, 2**18))
        if not block:
            raise ConnectionError("the file became shorter")
        target.write(block)
        count -= len(block)
