"""Models: the Weighter and CAM++."""

from pyannote_weighter.models.campplus import CAMPPlus
from pyannote_weighter.models.weighter import Weighter

__all__ = ["CAMPPlus", "Weighter"]
