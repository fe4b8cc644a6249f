import dataclasses
import json

import numpy as np
import pytest

from jaxmotion.diffusion.schedule import Schedule, linear, scaled_linear, snr_shift, zero_terminal_snr


def snr(schedule):
    return schedule.alpha_bar / (1 - schedule.alpha_bar)


def test_the_first_two_values_by_hand():
    assert linear(0.1, 0.3, 3).alpha_bar == pytest.approx([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])
    assert scaled_linear(0.01, 0.09, 3).alpha_bar == pytest.approx([0.99, 0.99 * 0.96, 0.99 * 0.96 * 0.91])


def test_stable_diffusion_ends_at_its_published_level():
    # arXiv:2305.08891, Table 1: Stable Diffusion has SNR(T) = 0.004682, sqrt(alpha_bar_T) = 0.068265.
    assert snr(scaled_linear())[-1] == pytest.approx(0.004682, abs=5e-7)
    assert np.sqrt(scaled_linear().alpha_bar[-1]) == pytest.approx(0.068265, abs=5e-7)


def test_a_shift_divides_every_signal_to_noise_ratio():
    np.testing.assert_allclose(snr(snr_shift(scaled_linear(), 3.0)), snr(scaled_linear()) / 3.0, rtol=1e-12)


def test_shifts_multiply_and_one_changes_nothing():
    assert snr_shift(snr_shift(scaled_linear(), 2.0), 1.5) == snr_shift(scaled_linear(), 3.0)
    np.testing.assert_array_equal(snr_shift(scaled_linear(), 1.0).alpha_bar, scaled_linear().alpha_bar)


@pytest.mark.parametrize("schedule", [scaled_linear(), linear(), snr_shift(scaled_linear(), 3.0)])
def test_zero_terminal_snr_keeps_the_start_and_empties_the_end(schedule):
    before, after = schedule.alpha_bar, zero_terminal_snr(schedule).alpha_bar
    assert after[-1] == 0.0
    assert after[0] == pytest.approx(before[0], rel=1e-12)
    assert np.all(np.diff(after) < 0)


def test_a_schedule_survives_json():
    schedule = zero_terminal_snr(snr_shift(linear(), 3.0))
    assert Schedule(**json.loads(json.dumps(dataclasses.asdict(schedule)))) == schedule


def test_the_table_is_not_for_writing():
    with pytest.raises(ValueError, match="read-only"):
        scaled_linear().alpha_bar[0] = 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"betas": "cosine"}, "'cosine'.*'scaled_linear' or 'linear'"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "0.5 to 0.1"),
        ({"steps": 1}, "at least 2"),
        ({"snr_shift": 0.0}, "> 0"),
    ],
)
def test_wrong_values_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**wrong)
