"""Tokenizers as components of an exported pipeline."""

from __future__ import annotations

from pathlib import Path

from jaxmotion.foundation.files import TOKENIZER_CONFIG, TOKENIZER_FILES, check_file_names
from jaxmotion.weights.diffusers_folder import Component

CLIP_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files of CLIP's public tokenizer; the first two are all that it needs."""
_CLIP_CONFIG = {
    "tokenizer_class": "CLIPTokenizer",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}


def hash_component(vocabulary: int, length: int) -> Component:
    """Returns a tokenizer that hashes words to ids, as a class that ships in the folder."""
    config = {"vocabulary": vocabulary, "model_max_length": length}
    return Component("hash_tokenizer", "HashTokenizer", config, "tokenizer_config.json")


def clip_component(folder: Path, length: int) -> Component:
    """Returns CLIP's byte-pair tokenizer as the stock class and its files.

    Raises:
        FileNotFoundError: the folder lacks vocab.json or merges.txt.
    """
    files = tuple(folder / name for name in CLIP_FILES if (folder / name).is_file())
    lacking = {"vocab.json", "merges.txt"} - {file.name for file in files}
    if lacking:
        raise FileNotFoundError(f"{folder} is no folder of CLIP's tokenizer: {' and '.join(sorted(lacking))} missing.")
    check_file_names(folder / TOKENIZER_CONFIG, TOKENIZER_FILES)
    own = any(file.name == "tokenizer_config.json" for file in files)
    config = {} if own else {**_CLIP_CONFIG, "model_max_length": length}
    return Component("transformers", "CLIPTokenizer", config, "tokenizer_config.json", files=files)


def t5_component(file: Path, length: int) -> Component:
    """Returns T5's SentencePiece tokenizer as the stock class and its file."""
    config = {
        "tokenizer_class": "T5Tokenizer",
        "model_max_length": length,
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "extra_ids": 100,
    }
    return Component("transformers", "T5Tokenizer", config, "tokenizer_config.json", files=(file,))
