"""Files that are no checkpoints, told by how they begin."""

from __future__ import annotations

from pathlib import Path

from jaxmotion.foundation.errors import CheckpointFileError

_AGAIN = "the download went wrong; fetch it again"
_ARCHIVE = "unpack it and give what was in it"
_MARKS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the checkpoint", "fetch it with git lfs pull"),
    (b"GGUF", "a GGUF file of quantised weights", "take the safetensors file of this model"),
    (b"\x89HDF\r\n", "an HDF5 file, of another framework", "take the safetensors file of this model"),
    (b"\x93NUMPY", "a NumPy array without a name", "save arrays by name, as safetensors"),
    (b"\x1f\x8b", "a gzip archive", _ARCHIVE),
    (b"BZh", "a bzip2 archive", _ARCHIVE),
    (b"\xfd7zXZ", "an xz archive", _ARCHIVE),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _ARCHIVE),
    (b"Rar!", "a rar archive", _ARCHIVE),
    (b"%PDF", "a PDF document", _AGAIN),
    (b"\x89PNG", "a picture", "give the file of the weights"),
    (b"\xff\xd8\xff", "a picture", "give the file of the weights"),
)
"""How a file begins, what it is then, and what would do."""


def refuse_other_kinds(file: Path, start: bytes) -> None:
    """Raises CheckpointFileError if a file's first bytes say that it is something else than a checkpoint.

    Args:
        start: at least the first 64 bytes.
    """
    if is_safetensors(start):
        return
    for mark, what, remedy in _MARKS:
        if start.startswith(mark):
            raise CheckpointFileError(f"{file} is {what}; {remedy}.")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] == b"<":
        raise CheckpointFileError(f"{file} is a web page, not a checkpoint; {_AGAIN}.")
    if text[:1] in (b"{", b"[") or (len(start) >= 16 and _is_text(start)):
        shown = " ".join(start[:60].decode(errors="replace").split())
        raise CheckpointFileError(f"{file} is text, not a checkpoint ({shown}); {_AGAIN}.")
    if start and not start.strip(b"\0"):
        raise CheckpointFileError(
            f"{file} begins with {len(start)} zeros, as an unfinished download does; fetch it again."
        )


def is_safetensors(start: bytes) -> bool:
    """Returns whether a file that begins so may be safetensors: 8 bytes of header length, then the header as JSON."""
    return start[4:8] == bytes(4) and start[8:9] in (b"{", b" ")


def _is_text(start: bytes) -> bool:
    return all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start)
