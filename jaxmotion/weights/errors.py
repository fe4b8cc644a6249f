"""What can be wrong with a checkpoint that comes from outside."""


class CheckpointFileError(ValueError):
    """A checkpoint file is missing, damaged, of an unknown kind, or would run code; the message names the file."""
