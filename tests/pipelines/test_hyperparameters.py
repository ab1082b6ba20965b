import numpy as np
import pytest

from pyannote_weighter.pipelines.hyperparameters import BOUNDS, USUAL, check_parameters


def test_usual_ones_and_ends_are_within_bounds():
    check_parameters(USUAL)
    for end in (0, 1):
        check_parameters({p: {k: v[end] for k, v in b.items()} for p, b in BOUNDS.items()})
    check_parameters({})
    check_parameters({"weighter": {"merge": np.float32(0.5)}})


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (None, "give segmentation and weighter"),
        ({"weighter": 0.3}, "choose from segmentation.min_duration_off"),
        ({"clustering": {}}, "hyper-parameters have clustering"),
        ({"weighter": {"onset": 0.3}}, "there is no weighter.onset"),
        ({"weighter": {"merge": float("nan")}}, "weighter.merge is nan: .* from 0 to 1"),
        ({"weighter": {"merge": True}}, "weighter.merge is True"),
        ({"segmentation": {"threshold": 0.95}}, "segmentation.threshold is 0.95: .* 0.1 to 0.9"),
    ],
)
def test_what_cannot_be_is_named(parameters, said):
    with pytest.raises(ValueError, match=said):
        check_parameters(parameters)


def test_of_those_that_there_are():
    check_parameters({"segmentation": {"threshold": 0.5}})
    with pytest.raises(ValueError, match=r"no segmentation.threshold: choose from (?!.*n.thresh)"):
        check_parameters({"segmentation": {"threshold": 0.5}}, USUAL)
