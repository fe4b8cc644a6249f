"""One rule says which files are clips, for training and for scores."""

import os

import pytest

from jaxmotion.meter.score_files import find_videos
from jaxmotion.video.listing import list_clips

CLIPS = ("a.mp4", "B.MOV", "deep/er/c.webm", "d.wmv", "e.3gp", "f.mts")
NO_CLIPS = (
    *("._a.mp4", ".hidden.mp4", ".ipynb_checkpoints/a-checkpoint.mp4", ".Trash-1000/files/x.mp4", ".git/x.mp4"),
    *("__MACOSX/a.mp4", "__MACOSX/._a.mp4", "$RECYCLE.BIN/x.mp4", "deep/Trash/x.mp4", "@eaDir/a.mp4/thumb.mp4"),
    *("lost+found/x.mp4", "System Volume Information/x.mp4", "notes.txt", "photo.jpg", "a.mp4.part"),
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / ".cache" / "set"  # what is named is meant, wherever it lies
    for name in (*CLIPS, *NO_CLIPS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def both(folder):
    """Names of the clips in a folder, which must be the same for both."""
    training = sorted(os.path.relpath(file.path, folder) for file in list_clips(folder).files)
    assert training == sorted(os.path.relpath(path, folder) for path in find_videos([str(folder)]))
    return training


def test_training_and_scores_take_the_same_files(folder, caplog):
    assert both(folder) == sorted(CLIPS)
    assert "6 folders of systems and bins are no data: $RECYCLE.BIN, @eaDir, System Volume" in caplog.text
    pattern = sorted(os.path.relpath(path, folder) for path in find_videos([f"{folder}/**/*.*"]))
    assert pattern == sorted([*CLIPS, "a.mp4.part", "notes.txt", "photo.jpg"])  # what is named is meant


def test_links_are_followed_once(folder, tmp_path):
    (tmp_path / "elsewhere" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere" / "sub" / "z.mp4").write_bytes(b"x")
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "deep" / "self").symlink_to(folder / "deep" / "self")
    (folder / "0_first").symlink_to(folder / "deep" / "er")  # its clips keep the names of where they are
    for name in ("link", "link2"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    (folder / "other.mp4").symlink_to(folder / "a.mp4")  # a link to a file is a clip of its own
    (folder / "gone.mp4").symlink_to(folder / "nothing.mp4")  # and one to nothing is named when it is read
    assert both(folder) == sorted([*CLIPS, "link/sub/z.mp4", "other.mp4", "gone.mp4"])
    again = find_videos([str(folder), str(folder / "link2"), f"{folder}/**/*.mp4"])
    assert len(again) == len(CLIPS) + 3


def test_a_folder_that_is_named_like_a_clip_is_gone_through(tmp_path):
    (tmp_path / "shots.mp4").mkdir()
    (tmp_path / "shots.mp4" / "a.mp4").write_bytes(b"x")
    assert both(tmp_path) == ["shots.mp4/a.mp4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into everything")
def test_a_folder_that_cannot_be_looked_into_is_said(tmp_path, caplog):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "locked").mkdir(mode=0)
    assert both(tmp_path) == ["a.mp4"]
    assert "locked cannot be looked into: Permission denied" in caplog.text
