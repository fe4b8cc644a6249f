"""Several data sets in one batch."""

import dataclasses
import itertools

import numpy as np
import pytest

from jaxmotion.data.loader import batches
from jaxmotion.data.mixture import Mixture
from jaxmotion.data.source import DataConfig, DataSource
from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.data.two_by_two import TwoByTwo
from jaxmotion.foundation.config_json import from_json, register, to_json
from jaxmotion.foundation.entries import FPS, VIDEO
from jaxmotion.video.synthetic.captions import CAPTION


@register()
@dataclasses.dataclass(frozen=True)
class Toys(DataConfig):
    """Clips of one grey level, by which their data set is known."""

    grey: int
    labels: tuple[str, ...] = ()
    count: int = 5
    frames: int = 2
    fps: float = 8.0
    size: tuple[int, int] = (8, 8)

    def open(self, report=None):
        return ToySource(self)


class ToySource(DataSource):
    """Clips of a `Toys`."""

    def __init__(self, config):
        super().__init__(config)
        self.optional_entries = config.labels

    def __len__(self):
        return self.config.count

    def load(self, index, rng=None):
        drawn = 0.0 if rng is None else rng.random()
        video = np.full((self.config.frames, *self.config.size, 3), self.config.grey, np.uint8)
        labels = {name: np.float32([index, drawn]) for name in self.config.labels}
        return {VIDEO: video, FPS: np.float32(8), CAPTION: "", "id": str(index), **labels}


def take(config, count, start=0, processes=(0, 1), batch=8):
    source = config.open()
    loader = batches(
        source,
        batch_size=batch,
        seed=3,
        tokenize=lambda texts: np.zeros((len(texts), 1), np.int32),
        also=source.optional_entries,
        process_index=processes[0],
        process_count=processes[1],
    )
    loader.set_state({"batches": start})
    found = list(itertools.islice(loader, count))
    loader.close()
    return found


MIXED = Mixture({"a": Toys(10, ("x",)), "b": Toys(20, ("y",), count=50)}, {"a": 3.0})


def test_every_batch_has_its_share_of_each_data_set_whatever_their_lengths() -> None:
    for batch in take(MIXED, 6):
        assert np.bincount(batch[VIDEO][:, 0, 0, 0, 0], minlength=21)[[10, 20]].tolist() == [6, 2]


def test_what_only_one_data_set_knows_is_not_a_number_in_the_others() -> None:
    (batch,) = take(MIXED, 1)
    first = batch[VIDEO][:, 0, 0, 0, 0] == 10
    assert batch["x"].shape == batch["y"].shape == (8, 2)
    assert np.isfinite(batch["x"]).all(1).tolist() == first.tolist()
    assert np.isfinite(batch["y"]).all(1).tolist() == (~first).tolist()


def test_it_is_resumed_exactly_and_split_over_processes() -> None:
    through, again = take(MIXED, 5), take(MIXED, 2, start=3)
    for one, other in zip(through[3:], again, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    halves = [take(MIXED, 1, processes=(process, 2))[0]["x"] for process in range(2)]
    np.testing.assert_array_equal(np.stack(halves, 1).reshape(8, 2), through[0]["x"])


def test_two_data_sets_do_not_draw_alike() -> None:
    twins = Mixture({"a": Toys(10, ("x",), count=1), "b": Toys(20, ("x",), count=1)})
    (batch,) = take(twins, 1)
    assert len(np.unique(batch["x"][:, 1])) == 8


def test_shapes_come_as_often_as_the_weights_say() -> None:
    source = Mixture({"a": Toys(10), "b": Toys(20)}).open()
    assert [weight for _, weight in source.mixed] == [1.0, 1.0]
    assert len(source) == 10
    assert [source.example(index)[VIDEO].max() for index in (0, 4, 5, 9)] == [10, 10, 20, 20]


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight for 'z', but the mixture has a, b"):
        dataclasses.replace(MIXED, weights={"z": 1.0})
    with pytest.raises(ValueError, match="one is above 0"):
        dataclasses.replace(MIXED, weights={"a": 0.0, "b": 0.0})
    with pytest.raises(ValueError, match=r"one \(frames, height, width\); these are a \(2, 8, 8\), b \(3, 8, 8\)"):
        Mixture({"a": Toys(1), "b": Toys(1, frames=3)})
    with pytest.raises(ValueError, match=r"entries of 'b' are not those of 'a', .* second_video"):
        Mixture({"a": Toys(1), "b": TwoByTwo(Toys(1))}).open()


def test_a_weight_of_nothing_leaves_a_data_set_out() -> None:
    left = dataclasses.replace(MIXED, weights={"b": 0.0}).open()
    assert len(left) == 5


def test_it_comes_back_from_json_and_takes_another_shape() -> None:
    config = Mixture({"a": SyntheticClips(frames=4, size=(16, 16)), "b": Toys(1, frames=4, size=(16, 16))}, {"b": 2.0})
    assert from_json(to_json(config), Mixture) == config
    assert config.with_shape(5, (24, 24)).size == (24, 24)


def test_clips_two_by_two_look_like_pairs() -> None:
    source = TwoByTwo(Toys(10, ("x",))).open()
    example = source.example(1)
    assert len(source) == 2
    assert example["second_video"].shape == example["video"].shape
    np.testing.assert_array_equal(example["x"][:, 0], [2, 3])
    assert np.isnan(example["stronger_camera"])
    np.testing.assert_allclose(example["step_seconds"], np.full((2, 1), 1 / 8))
