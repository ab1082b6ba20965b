"""Hyper-parameters of the pipeline: which there are, what is usual, what they may be."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyannote_weighter.linking import PARAMETERS
from pyannote_weighter.options import is_number

BOUNDS = {
    "segmentation": {"min_duration_off": (0.0, 1.0), "threshold": (0.1, 0.9)},
    "weighter": {"threshold": (0.0, 1.0), "merge": (0.0, 1.0), "min_duration": (0.0, 10.0)},
}
"""Least and greatest values of hyper-parameters; not every segmentation has a threshold."""
USUAL = {"segmentation": {"min_duration_off": 0.0}, "weighter": PARAMETERS}
"""Hyper-parameters that every pipeline has; those of recipes/linking."""


def check_parameters(parameters: dict, known: Mapping[str, Collection[str]] = BOUNDS) -> None:
    """Refuse hyper-parameters that do not exist, or are no numbers within `BOUNDS`.

    Parameters
    ----------
    parameters : dict
        By the names of the parts of the pipeline; need not be complete.
    known : mapping, optional
        Names of those that a pipeline has, by part. Defaults to all.

    Raises
    ------
    ValueError
    """
    if not isinstance(parameters, dict):
        raise ValueError(f"hyper-parameters are {parameters!r}: give segmentation and weighter")
    for part, values in parameters.items():
        if part not in known or not isinstance(values, dict):
            raise ValueError(
                f"hyper-parameters have {part}: {values!r}; choose from {_described(known)}"
            )
        for name, value in values.items():
            if name not in known[part]:
                raise ValueError(f"there is no {part}.{name}: choose from {_described(known)}")
            low, high = BOUNDS[part][name]
            if not (is_number(value) and low <= value <= high):
                raise ValueError(
                    f"{part}.{name} is {value!r}: choose a number from {low:g} to {high:g}"
                )


def _described(known: Mapping[str, Collection[str]]) -> str:
    """Names of hyper-parameters."""
    return ", ".join(f"{part}.{name}" for part, names in known.items() for name in names)
