import subprocess
import sys

import numpy as np
import pytest

from jaxmotion.data.tokenize import ClipTokenizer, HashTokenizer, T5Tokenizer


def test_hashed_words_by_hand():
    ids = HashTokenizer(vocabulary=1000, length=6)(["The cat", "the CAT", "the, dog runs far away", ""])
    assert ids.dtype == np.int32
    assert (ids[0] == ids[1]).all()
    assert ids[0, [0, 3, 4, 5]].tolist() == [998, 999, 999, 999]  # start, end, and the end again to the full length
    assert ids[2, 1] == ids[0, 1] != ids[2, 2]
    assert ids[2, -1] == 999
    assert ids[3].tolist() == [998, 999, 999, 999, 999, 999]
    assert ids[:, 1:].min() >= 0
    assert len(set(HashTokenizer(vocabulary=10**6, length=40)([" ".join(map(str, range(38)))])[0])) == 40


def test_hashes_do_not_change_from_process_to_process():
    code = "from jaxmotion.data.tokenize import HashTokenizer; print(HashTokenizer()(['a cat']).tolist())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(HashTokenizer()(["a cat"]).tolist())


def test_clip_gives_the_known_ids(shared_weights):
    tokenizer = ClipTokenizer(str(shared_weights / "tokenizers" / "clip"))
    ids = tokenizer(["a photo of a cat", "A  Photo of a CAT", "word " * 100, ""])
    assert ids.shape == (4, 77)
    assert ids[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (ids[0, 7:] == 49407).all()  # as Stable Diffusion 1.5 fills up
    assert (ids[0] == ids[1]).all()
    assert ids[2, 76] == 49407
    assert ids[3, :2].tolist() == [49406, 49407]


def test_what_does_not_fit_is_told_by_hand():
    tokenizer = HashTokenizer(vocabulary=1000, length=6)  # 4 words between start and end
    assert tokenizer.cut_off("The cat runs far") == ""
    assert tokenizer.cut_off("The cat runs far Away, fast!") == "Away, fast!"
    assert tokenizer.cut_off("\u0130 a b c D") == "c d"  # a letter that is a letter and a mark in lower case
    assert tokenizer.cut_off("") == ""


def test_what_does_not_fit_is_told_by_the_public_tokenizers(shared_weights):
    clip = ClipTokenizer(str(shared_weights / "tokenizers" / "clip"))
    assert clip.cut_off("word " * 75) == ""
    assert clip.cut_off("word " * 75 + "and then the Rest") == "and then the rest"
    assert (clip(["word " * 75 + "and then"]) == clip(["word " * 75])).all()
    pytest.importorskip("sentencepiece")
    t5 = T5Tokenizer(str(shared_weights / "tokenizers" / "t5"), length=16)
    assert t5.cut_off("word " * 15) == ""
    assert t5.cut_off("word " * 15 + "and then the Rest") == "and then the Rest"


def test_a_missing_tokenizer_says_what_it_needs(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match=r"vocab\.json and merges\.txt"):
        ClipTokenizer(str(tmp_path))(["a cat"])
    with pytest.raises(ValueError, match="3 ids and 2 tokens"):
        HashTokenizer(vocabulary=2)


def test_t5_gives_the_known_ids(shared_weights):
    """The ids that the documentation of T5 prints for this sentence."""
    pytest.importorskip("sentencepiece")
    ids = T5Tokenizer(str(shared_weights / "tokenizers" / "t5"), length=16)(
        ["translate English to German: The house is wonderful.", "word " * 100, ""]
    )
    assert ids[0].tolist() == [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1, 0, 0, 0, 0, 0]
    assert ids[1, -1] == 1
    assert (ids[1, :-1] == ids[1, 0]).all()
    assert ids[2].tolist() == [1] + [0] * 15


def test_a_missing_t5_tokenizer_says_what_it_needs(tmp_path):
    pytest.importorskip("sentencepiece")
    with pytest.raises(FileNotFoundError, match=r"it must hold spiece\.model"):
        T5Tokenizer(str(tmp_path))(["a cat"])
    (tmp_path / "spiece.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match="is no SentencePiece model"):
        T5Tokenizer(str(tmp_path))(["a cat"])
