"""Errors with a message for people: each says what happened and what would do."""

import errno

_REMEDIES = {
    errno.EACCES: "Change its rights, or give a place that is yours.",
    errno.EPERM: "Change its rights, or give a place that is yours.",
    errno.EROFS: "Its file system can be read only; give a place that can be written.",
    errno.ENOSPC: "Make room, or give a place that has some; the same command goes on from there.",
    errno.EDQUOT: "Make room, or give a place that has some; the same command goes on from there.",
    errno.EMFILE: "Allow more open files with `ulimit -n`, or use fewer workers.",
    errno.ENAMETOOLONG: "Give a shorter name.",
}


def describe_os_error(error: OSError) -> str:
    """Returns the message of an error of the operating system: the file, what is wrong with it, and what would do."""
    if error.strerror is None or error.filename is None:
        return str(error)
    remedy = _REMEDIES.get(error.errno or 0, "")
    return f"{error.filename}: {error.strerror}.{' ' * bool(remedy)}{remedy}"


class SaveError(RuntimeError):
    """The run folder could not be written, for instance because the disk is full."""


class NotFiniteError(RuntimeError):
    """Too many steps in a row gave a loss or gradient that is not finite."""


class InUseError(RuntimeError):
    """Another process is writing what is to be written."""


class ConfigChangedError(ValueError):
    """A run cannot be continued with the configuration given."""


class CheckpointError(ValueError):
    """A checkpoint is missing or does not fit what should be read from it."""


class CheckpointFileError(ValueError):
    """A checkpoint file is missing, damaged, of an unknown kind, or would run code; the message names the file."""
