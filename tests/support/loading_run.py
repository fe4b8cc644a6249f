"""A command that loads batches with two workers for ever, once it has printed their process ids."""

import multiprocessing
import time

import numpy as np

from jaxmotion.data.loader import batches
from jaxmotion.data.source import DataSource
from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.foundation.command_line import command


class Frames(DataSource):
    """A source of clips that are large enough for shared memory."""

    def __init__(self):
        pass

    def __len__(self):
        return 8

    def load(self, index, rng=None):
        return {"video": np.zeros((8, 64, 64, 3), np.uint8), "caption": "", "fps": np.float32(8)}


def body(arguments):
    loader = batches(Frames(), batch_size=2, seed=0, tokenize=HashTokenizer(), workers=2)
    next(loader)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    while True:
        next(loader)
        time.sleep(0.01)


if __name__ == "__main__":
    command(body)
