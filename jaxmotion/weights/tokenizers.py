"""Tokenizers as components of an exported pipeline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxmotion.weights.diffusers_folder import Component

CLIP_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Those of the public tokenizer; the first two say it all."""
_CLIP_CONFIG = {
    "tokenizer_class": "CLIPTokenizer",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}


@dataclasses.dataclass(frozen=True)
class HashTokens:
    """Words are hashed to ids (`data.tokenize.HashTokenizer`)."""

    vocabulary: int
    length: int

    def component(self) -> Component:
        """A class that ships in the folder."""
        config = {"vocabulary": self.vocabulary, "model_max_length": self.length}
        return Component("hash_tokenizer", "HashTokenizer", config, "tokenizer_config.json")


@dataclasses.dataclass(frozen=True)
class ClipTokens:
    """CLIP's byte-pair tokenizer, from a folder with its files."""

    folder: Path
    length: int = 77
    vocabulary: int = 49408

    def component(self) -> Component:
        """The stock class and its files.

        Raises:
            FileNotFoundError: the folder lacks vocab.json or merges.txt.
        """
        files = tuple(self.folder / name for name in CLIP_FILES if (self.folder / name).is_file())
        lacking = {"vocab.json", "merges.txt"} - {file.name for file in files}
        if lacking:
            raise FileNotFoundError(
                f"{self.folder} is no folder of CLIP's tokenizer: {' and '.join(sorted(lacking))} missing."
            )
        own = any(file.name == "tokenizer_config.json" for file in files)
        config = {} if own else {**_CLIP_CONFIG, "model_max_length": self.length}
        return Component("transformers", "CLIPTokenizer", config, "tokenizer_config.json", files=files)


@dataclasses.dataclass(frozen=True)
class T5Tokens:
    """T5's SentencePiece tokenizer, from its file."""

    file: Path
    length: int = 226
    vocabulary: int = 32128

    def component(self) -> Component:
        """The stock class and its file."""
        config = {
            "tokenizer_class": "T5Tokenizer",
            "model_max_length": self.length,
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "extra_ids": 100,
        }
        return Component("transformers", "T5Tokenizer", config, "tokenizer_config.json", files=(self.file,))


Tokens = HashTokens | ClipTokens | T5Tokens
