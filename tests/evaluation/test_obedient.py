"""The control curve on clips that are rendered at exactly the scores asked for: the right values of a perfect model.

And of models that are wrong in one way: whose leaks cancel, whose scale is another.
"""

from __future__ import annotations

import pytest

pytest.importorskip("cv2")

from jaxmotion.evaluation.control_curve import ControlCurve
from jaxmotion.evaluation.evaluation import Numbers
from tests.support.obedient import FPS, Obedient

VALUES = (1, 4, 7, 10)


def measure(generate: Obedient, *, masks: bool = True, scenes: int = 2, seeds=(0,)) -> Numbers:
    curve = ControlCurve(values=VALUES, seeds=seeds)
    return curve.measure(generate, generate.scenes(scenes, masks=masks), FPS)["controls"]


@pytest.mark.parametrize(("side", "masks"), [(24, True), (96, True), (96, False)])
def test_a_model_that_obeys_is_perfect(side: int, masks: bool) -> None:
    """In small and larger clips, and on pictures of which nobody says where the object is."""
    found = measure(Obedient(side), masks=masks)
    for control in ("object", "camera"):
        own = found[control]["measures"][f"{control}_speed"]
        assert own["spearman_per_scene"] == pytest.approx(1.0)
        assert own["spearman"] > 0.96  # what is asked of several scenes is tied, and what is measured is not
        assert own["largest_cross_talk"] <= 0.05
        assert own["calibration_error"] < 0.15
        assert max(map(abs, own["bias_by_value"])) < 0.3
    assert found["object"]["held"] == {"camera": 1.0}


def test_a_model_whose_leaks_cancel_is_caught() -> None:
    """The camera goes with the object in one scene and against it in the other."""

    def leak(scene: int, seed: int, own: float, camera: float) -> tuple[float, float]:
        return own, 5.0 + (0.4 if scene % 2 else -0.4) * (own - 5.0)

    found = measure(Obedient(24, leak))["object"]["measures"]["object_speed"]
    assert found["largest_cross_talk"] == pytest.approx(0.4, abs=0.05)


def test_a_model_with_the_right_ranks_at_the_wrong_scale_is_caught() -> None:
    """It moves half as much as asked, in scores."""
    found = measure(Obedient(24, lambda scene, seed, own, camera: (1 + (own - 1) / 2, camera)))
    own = found["object"]["measures"]["object_speed"]
    assert own["spearman_per_scene"] == pytest.approx(1.0)
    assert own["largest_cross_talk"] <= 0.05
    assert own["calibration_error"] == pytest.approx(sum((value - 1) / 2 for value in VALUES) / len(VALUES), abs=0.1)
