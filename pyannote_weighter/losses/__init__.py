"""Losses between what a file is tagged with and what its slots claim.

With y_hat = c p in [0, 1], the confidence of a slot times its posterior of a speaker:

    wBCE(y, y_hat) = -y ln(y_hat) + y_hat
     BCE(y, y_hat) = -y ln(y_hat) - (1 - y) ln(1 - y_hat)

Both are least at y_hat = y. Where y is 0 and should have been 1, which is what a missing like
looks like, the gradient of BCE has no bound and that of wBCE is 1. What the literature on missing
labels proposes for the same trouble is beside them, behind one interface (`elementwise`), over
likes that are assigned to slots (`SetCriterion`) or over whole recordings (`recording`).
"""

from pyannote_weighter.losses.choice import RECORDING, RecordingCriterion, get_criterion
from pyannote_weighter.losses.criterion import SetCriterion, SetLoss
from pyannote_weighter.losses.elementwise import (
    BCE,
    LOSSES,
    NNPU,
    SPLC,
    WBCE,
    Asymmetric,
    ElementwiseLoss,
    EntropyMaximization,
    Focal,
    Hill,
    SmoothedBCE,
    WeakNegatives,
    asymmetric,
    bce,
    entropy_maximization,
    focal,
    hill,
    nnpu,
    smoothed_bce,
    splc,
    wbce,
    weak_negatives,
)
from pyannote_weighter.losses.recording import (
    ROLE,
    PseudoLabels,
    any_slot,
    like_matrix,
    log_any_slot,
    recording_kl,
    with_unknown,
)
from pyannote_weighter.losses.trust import TrustedLikes

__all__ = [
    "BCE",
    "LOSSES",
    "NNPU",
    "ROLE",
    "SPLC",
    "WBCE",
    "Asymmetric",
    "ElementwiseLoss",
    "EntropyMaximization",
    "Focal",
    "Hill",
    "RECORDING",
    "PseudoLabels",
    "RecordingCriterion",
    "SetCriterion",
    "SetLoss",
    "SmoothedBCE",
    "TrustedLikes",
    "WeakNegatives",
    "any_slot",
    "asymmetric",
    "bce",
    "entropy_maximization",
    "focal",
    "get_criterion",
    "hill",
    "like_matrix",
    "log_any_slot",
    "nnpu",
    "recording_kl",
    "smoothed_bce",
    "splc",
    "wbce",
    "weak_negatives",
    "with_unknown",
]
