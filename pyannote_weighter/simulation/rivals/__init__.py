"""What a learned assignment has to beat: clustering with and without time, none of it learned.

A rival labels sequences of vectors as simulated by `RandomWalkVectors`, one speaker at a time:

- without time: `k_means`, `agglomerative`, `spectral`, and `vbx`, pyannote's own code;
- with time: `smoothed_k_means` (its window chosen on other data), `sticky_hmm` by expectation
  maximisation, and `vbx_loop`, the Bayesian HMM that VBx is where speakers are likely to go on.

The last two and `vbx` are told that vectors are of N(0, I), which PLDA tells VBx anyway; the noise
they estimate. Settings were chosen on sequences drawn for that alone, at 64 dimensions, two
speakers, a walk of scale 30 and 1000 frames: none that was tried there is clearly better.

Every rival takes (batch, time, dimension) `frames` and `num_speakers`, and returns (batch, time)
int64 labels below `num_speakers`, numbered as it pleases, on the device of the frames.
Where a sequence has no more distinct frames than speakers, each gets a label of its own. The same
`seed` gives the same labels. NaN, infinite or empty frames, or no speaker, raise a ValueError.
"""

from pyannote_weighter.simulation.rivals.bayesian import vbx, vbx_loop
from pyannote_weighter.simulation.rivals.clustering import (
    agglomerative,
    choose_window,
    k_means,
    smoothed_k_means,
    spectral,
)
from pyannote_weighter.simulation.rivals.common import moving_average, noise_variance
from pyannote_weighter.simulation.rivals.hidden_markov import sticky_hmm

__all__ = [
    "agglomerative",
    "choose_window",
    "k_means",
    "moving_average",
    "noise_variance",
    "smoothed_k_means",
    "spectral",
    "sticky_hmm",
    "vbx",
    "vbx_loop",
]
