"""Options are refused in words."""

import math

import numpy as np
import pytest

from pyannote_weighter.options import FINITE, check_options, is_whole

RULES = {"size": ("a whole number above 0", lambda value: is_whole(value) and value > 0)}
RULES |= {"share": ("from 0 to 1", lambda value: 0 <= value <= 1), "offset": FINITE}


def test_what_is_allowed():
    check_options(RULES)
    check_options(RULES, size=np.int64(3), share=0, offset=np.float32(-1.5))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"size": 0}, "size is 0: choose a whole number above 0"),
        ({"size": True}, "size is True: choose a whole number"),
        ({"size": 2.0}, "size is 2.0: choose a whole number"),
        ({"share": math.nan}, "share is nan: choose from 0 to 1"),
        ({"share": "0.5"}, "share is '0.5': choose from 0 to 1"),
        ({"size": 1, "share": None}, "share is None"),
        ({"offset": math.nan}, "offset is nan: choose a finite number"),
        ({"offset": "much"}, "offset is 'much': choose a finite number"),
        ({"offset": True}, "offset is True: choose a finite number"),
    ],
)
def test_what_is_not(options, words):
    with pytest.raises(ValueError, match=words):
        check_options(RULES, **options)
