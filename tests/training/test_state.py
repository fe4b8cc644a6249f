import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.training.state import empty_paths, merge, split

PARAMS = {
    "unet": {"conv": {"kernel": jnp.ones(2), "bias": jnp.zeros(1)}, "boxes": {"kernel": jnp.ones(3)}},
    "text": {"table": jnp.arange(4)},
    "codec": {},
}


@pytest.mark.parametrize("trained", [("boxes",), ("/kernel$",), ("^unet/",), ("bias", "boxes/")])
def test_split_and_merge_are_inverse(trained):
    mine, frozen = split(PARAMS, trained)
    merged = merge(mine, frozen)
    assert merged.keys() == PARAMS.keys()
    assert merged["codec"] == {}
    assert merged["unet"]["conv"]["kernel"] is PARAMS["unet"]["conv"]["kernel"]
    np.testing.assert_array_equal(merged["text"]["table"], np.arange(4))


def test_each_parameter_is_on_one_side():
    mine, frozen = split(PARAMS, ("/boxes/", "bias"))
    assert mine == {"unet": {"conv": {"bias": jnp.zeros(1)}, "boxes": {"kernel": PARAMS["unet"]["boxes"]["kernel"]}}}
    assert set(frozen["unet"]["conv"]) == {"kernel"}
    assert frozen["codec"] == {}


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"'box' in `trained` matches no parameter\. Paths look like: .*unet/conv"):
        split({"unet": {"conv": {"kernel": jnp.ones(2)}}}, ("box",))
    with pytest.raises(ValueError, match="`trained` is empty"):
        split(PARAMS, ())


def test_integers_cannot_be_trained():
    with pytest.raises(ValueError, match="'text/table' holds int32"):
        split(PARAMS, (".*",))


def test_places_of_empty_parts():
    assert empty_paths({"a": {}, "b": {"c": {}, "d": 1}}) == ["a", "b/c"]


def test_two_trees_with_the_same_leaf_do_not_merge():
    with pytest.raises(ValueError, match="'kernel'"):
        merge({"kernel": 1}, {"kernel": 2})
