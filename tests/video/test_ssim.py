"""dm-pix's SSIM, with our window, against scikit-image's on real photographs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from skimage.metrics import structural_similarity

from jaxmotion.video.ssim import ssim

# float32 variances are differences of squares, so good to 1e-7, beside a constant of 9e-4 in the formula.
TOLERANCE = 1e-4


def photo(name):
    return getattr(skimage.data, name)()[60:260, 100:340].astype(np.float32) / 255


def reference(x, y):
    """In float64. Its mean leaves out 5 px at the border, which is where our window does not fit."""
    return structural_similarity(
        x.astype(np.float64),
        y.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
    )


def changed(name, how):
    x, rng = photo(name), np.random.default_rng(0)
    if how == "shifted":
        return x, np.roll(x, 1, axis=1)
    if how == "noisy":
        return x, np.clip(x + rng.normal(0, 0.1, x.shape), 0, 1).astype(np.float32)
    if how == "dimmed":
        return x, 0.7 * x
    return x, 1 - x


@pytest.mark.parametrize("how", ["shifted", "noisy", "dimmed", "inverted"])
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
def test_agrees_with_scikit_image(name, how):
    x, y = changed(name, how)
    assert float(ssim(x, y)) == pytest.approx(reference(x, y), abs=TOLERANCE)


def test_smallest_image():
    x, y = (image[:11, :11] for image in changed("coffee", "noisy"))
    assert float(ssim(x, y)) == pytest.approx(reference(x, y), abs=TOLERANCE)


def test_an_image_is_like_itself_and_the_order_does_not_matter():
    x, y = changed("astronaut", "noisy")
    assert float(ssim(x, x)) == pytest.approx(1.0, abs=1e-5)
    assert float(ssim(x, y)) == float(ssim(y, x))


@pytest.mark.parametrize("shape", [(2, 3, 40, 36, 3), (2, 7, 200, 200, 3)], ids=["at once", "frame by frame"])
def test_clips_give_the_values_of_their_frames(shape):
    x, y = np.random.default_rng(1).random((2, *shape), np.float32)
    values = jax.jit(ssim)(x, y)
    assert values.shape == shape[:2]
    for index in [(0, 0), (1, 2), (0, shape[1] - 1)]:
        assert float(values[index]) == pytest.approx(reference(x[index], y[index]), abs=TOLERANCE)


def test_memory_does_not_grow_with_the_length_of_a_clip():
    def temporary_bytes(frames):
        clip = jax.ShapeDtypeStruct((1, frames, 256, 256, 3), jnp.float32)
        return jax.jit(ssim).lower(clip, clip).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(64) < 1.1 * temporary_bytes(8)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((3, 10, 32, 3), (3, 10, 32, 3), "at least 11 x 11 px; these are 32 x 10"),
        ((16, 16, 3), (16, 15, 3), "same shape"),
        ((16, 16), (16, 16), "same shape"),
    ],
)
def test_what_cannot_be_compared_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        ssim(jnp.zeros(x), jnp.zeros(y))
