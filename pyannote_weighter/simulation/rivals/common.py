"""What rivals share: checks of frames, a moving average, the noise, and starts."""

from collections.abc import Callable, Iterable
from functools import wraps

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import one_hot

from pyannote_weighter.models.encoders import markov
from pyannote_weighter.weighting import full_precision

# Windows of the moving averages from which the methods with local optima start. The best one
# depends on noise and turns: a start is cheap, and the best end is kept.
_WINDOWS = (1, 11, 25, 51, 101)


def rival(cluster: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a rival of a function that clusters: decorator.

    It checks the frames and labels sequences that leave nothing to cluster. `cluster` sees the
    others, in full precision, and more than one speaker.
    """

    @wraps(cluster)
    def checked(frames: Tensor, num_speakers: int, *args, **kwargs) -> Tensor:
        if frames.ndim != 3 or not frames.numel():
            raise ValueError(
                f"frames are {tuple(frames.shape)}: need (batch, time, dimension), none of them 0"
            )
        if num_speakers < 1:
            raise ValueError(f"num_speakers is {num_speakers}: choose at least 1")
        bad = ~frames.isfinite().all(-1)  # (B, T)
        if bad.any():
            raise ValueError(
                f"{int(bad.sum())} of {bad.numel()} frames are NaN or infinite: remove them first"
            )
        frames = full_precision(frames.detach())
        labels = torch.zeros(frames.shape[:2], dtype=torch.int64, device=frames.device)
        if num_speakers == 1:
            return labels
        rest = []
        for index, sequence in enumerate(frames.cpu().numpy()):
            # cheap and nearly always enough: distinct numbers are in distinct frames
            if len(np.unique(sequence[:, 0])) <= num_speakers:
                distinct, label = np.unique(sequence, axis=0, return_inverse=True)
                if len(distinct) <= num_speakers:
                    labels[index] = torch.from_numpy(label)
                    continue
            rest.append(index)
        if rest:
            labels[rest] = cluster(frames[rest], num_speakers, *args, **kwargs).to(labels)
        return labels

    return checked


def each(frames: Tensor, cluster: Callable[[np.ndarray], Iterable[int]]) -> Tensor:
    """Cluster sequences one by one."""
    labels = np.stack([cluster(sequence) for sequence in frames.cpu().numpy()])
    return torch.from_numpy(labels).long()


def moving_average(frames: Tensor, window: int) -> Tensor:
    """See `markov.moving_average`; here in float64, as sums are long and frames not centred."""
    return markov.moving_average(frames.double(), window).to(frames)


def noise_variance(frames: Tensor) -> Tensor:
    """Variance of the noise, (batch, time, dimension) to (batch,), see `markov.noise_level`."""
    return markov.noise_level(frames).square()


def starts(frames: Tensor, num_speakers: int, restarts: int, seed: int) -> Tensor:
    """Speakers to start from, (batch, time, window x restart, speaker), 0 or 1."""
    labels = [
        each(
            moving_average(frames, window),
            KMeans(num_speakers, n_init=2, random_state=seed + restart).fit_predict,
        )
        for window in _WINDOWS
        if window <= frames.shape[1]
        for restart in range(restarts)
    ]
    return one_hot(torch.stack(labels, 2), num_speakers).to(frames)
