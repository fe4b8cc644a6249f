"""Examples of a data source to a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxmotion.data.source import Example

Tokenize = Callable[[Sequence[str]], np.ndarray]
"""Texts to token ids int32 [B L]."""


@dataclasses.dataclass(frozen=True)
class Collate:
    """Stacks entries [B ...] and tokenises texts.

    texts: batch entries of token ids and the texts of examples that they are made of, as `DataSource.texts`.
    """

    entries: Sequence[str]
    texts: Mapping[str, str]
    tokenize: Tokenize

    def __call__(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """Returns a batch."""
        batch = {name: np.stack([np.asarray(example[name]) for example in examples]) for name in self.entries}
        return {**batch, **{name: self._tokens([each[text] for each in examples]) for name, text in self.texts.items()}}

    def _tokens(self, texts: Sequence[str | Sequence[str]]) -> np.ndarray:
        """Token ids [B L] of strings, [B N L] of lists of as many strings each.

        Raises:
            ValueError: the lists differ in length.
        """
        if isinstance(texts[0], str):
            return self.tokenize([str(text) for text in texts])
        lengths = sorted({len(each) for each in texts})
        if len(lengths) > 1:
            raise ValueError(f"Examples of one batch have {lengths} texts; pad the lists with '' to the same length.")
        return np.stack([self.tokenize(list(each)) for each in texts])
