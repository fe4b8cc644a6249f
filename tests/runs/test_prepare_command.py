import pytest

from jaxmotion import prepare


@pytest.mark.parametrize(
    ("windows", "said"),
    [
        ((), "the start of each clip and nothing else of it; --windows N stores more"),
        (("--windows", "4"), "4 parts of"),
    ],
)
def test_the_last_line_says_which_parts_of_clips_were_stored(monkeypatch, capsys, tmp_path, windows, said):
    asked = {}

    def precompute(config, destination, **options):
        asked.update(options)
        return 3

    monkeypatch.setattr(prepare.precompute, "precompute", precompute)
    prepare.body(["--config", "motionstone:tiny", "--out", str(tmp_path / "set"), *windows])
    assert asked["windows"] == (4 if windows else 1)
    assert f"set: 3 records written by this process: {said}" in capsys.readouterr().out
