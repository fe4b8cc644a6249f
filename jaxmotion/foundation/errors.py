"""Errors with a message for people: each says what happened and what would do."""


class SaveError(RuntimeError):
    """The run folder could not be written, for instance because the disk is full."""


class NotFiniteError(RuntimeError):
    """Too many steps in a row gave a loss or gradient that is not finite."""


class ConfigChangedError(ValueError):
    """A run cannot be continued with the configuration given."""


class CheckpointError(ValueError):
    """A checkpoint is missing or does not fit what should be read from it."""


class CheckpointFileError(ValueError):
    """A checkpoint file is missing, damaged, of an unknown kind, or would run code; the message names the file."""
