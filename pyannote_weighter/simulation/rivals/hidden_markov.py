"""Hidden Markov model by expectation maximisation, of hmmlearn."""

import warnings

import numpy as np
import torch
from torch import Tensor

from pyannote_weighter.simulation.rivals.common import noise_variance, rival, starts


@rival
def sticky_hmm(
    frames: Tensor,
    num_speakers: int,
    restarts: int = 1,
    stay: float = 0.97,
    weight: float = 30.0,
    seed: int = 0,
) -> Tensor:
    """Gaussian hidden Markov model of hmmlearn, by expectation maximisation with priors.

    Emissions are normal, with one variance for all speakers and dimensions (spherical and tied),
    that of `noise_variance`, and means of N(0, I). Transitions have a Dirichlet prior. Of several
    runs, the one with the highest evidence is kept: in many dimensions the likelihood prefers
    those that fit noise. Each frame is given to its most probable speaker.

    Parameters
    ----------
    frames : (batch, time, dimension) tensor
    num_speakers : int
    restarts : int, optional
        Runs from each of five starts: k-means on the frames, and on their moving average over four
        windows.
    stay : float, optional
        Expected probability to go on speaking in the next frame, where EM starts.
    weight : float, optional
        How many frames of each speaker this expectation counts for.
    seed : int, optional

    Returns
    -------
    labels : (batch, time) int64 tensor

    Raises
    ------
    ImportError
        Where hmmlearn is missing.
    ValueError
        Where `stay` or `weight` is out of its range.

    References
    ----------
    L. R. Rabiner, "A tutorial on hidden Markov models and selected applications in speech
    recognition", Proc. IEEE 77(2), 1989.
    J.-L. Gauvain and C.-H. Lee, "Maximum a posteriori estimation for multivariate Gaussian
    mixture observations of Markov chains", IEEE TSAP 2(2), 1994.
    """
    if not 0 < stay < 1 or not 0 < weight < np.inf:
        raise ValueError(
            f"stay is {stay}, weight is {weight}: choose a probability between 0 and 1, and a "
            "positive number"
        )
    frames = frames.double()
    transition = np.full((num_speakers, num_speakers), (1 - stay) / (num_speakers - 1))
    np.fill_diagonal(transition, stay)
    active = starts(frames, num_speakers, restarts, seed)  # (B, T, R, K)
    labels = []
    for sequence, variance, first in zip(
        frames.cpu().numpy(), noise_variance(frames).tolist(), active.cpu().numpy(), strict=True
    ):
        with warnings.catch_warnings():
            # hmmlearn 0.3.3 sets the shape of arrays, which NumPy 2.5 deprecates
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="hmmlearn")
            runs = [
                _fit(sequence, variance, first[:, run], transition, weight)
                for run in range(first.shape[1])
            ]
        posterior, _ = max(runs, key=lambda run: run[1])
        labels.append(posterior.argmax(1))
    return torch.from_numpy(np.stack(labels))


def _fit(
    frames: np.ndarray,
    variance: float,
    active: np.ndarray,
    transition: np.ndarray,
    weight: float,
) -> tuple[np.ndarray, float]:
    """Fit the model of `sticky_hmm` from one start, (time, speaker) `active`.

    Returns
    -------
    posterior : (time, speaker) array
    evidence : float
        Logarithm, the means integrated out around their estimates (Laplace), up to a constant.
    """
    try:
        from hmmlearn.hmm import GaussianHMM
    except ImportError as error:
        raise ImportError(
            'sticky_hmm needs hmmlearn: pip install "pyannote-weighter[recipes]"'
        ) from error

    class StickyHMM(GaussianHMM):
        def _compute_lower_bound(self, log_likelihood: float) -> float:
            # what EM with priors increases; the likelihood alone may fall, and stop it too early
            log_prior = (weight * transition * np.log(self.transmat_)).sum()
            return log_likelihood + log_prior - np.square(self.means_).sum() / 2

    model = StickyHMM(
        len(transition),
        "spherical",
        transmat_prior=1 + weight * transition,
        means_weight=variance,  # over a prior variance of 1
        n_iter=100,
        tol=0.1,
        params="tm",
        init_params="",
    )
    model.startprob_ = np.full(len(transition), 1 / len(transition))
    model.transmat_ = transition
    model.covars_ = np.full(len(transition), variance)
    model.means_ = active.T @ frames / (active.sum(0)[:, None] + variance)
    posterior = model.fit(frames).predict_proba(frames)
    precision = 1 + posterior.sum(0) / variance  # (K,) of the means
    evidence = model.monitor_.history[-1] - frames.shape[1] * np.log(precision).sum() / 2
    return posterior, evidence
