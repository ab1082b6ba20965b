"""PLDA for pyannote's VBx clustering, estimated from recordings with references.

Since pyannote.audio 4.0 `SpeakerDiarization` clusters by VBx, which needs a probabilistic linear
discriminant analysis of its embedding. The published one belongs to another embedding and needs an
account; this one is made of any embedding and any recordings in which speakers are known.
"""

from pathlib import Path

import numpy as np
from pyannote.audio.core.plda import PLDA
from pyannote.audio.utils.vbx import l2_norm
from scipy.linalg import eigh

from pyannote_weighter.output import atomic

DIMENSION = 128  # of community-1, and the most that `PLDA.from_pretrained` reads
ITERATIONS = 20


def estimate_plda(
    embeddings: np.ndarray, speakers: np.ndarray, dimension: int = DIMENSION
) -> dict[str, dict[str, np.ndarray]]:
    """Estimate what pyannote's VBx calls `xvec_transform` and `plda`.

    Embeddings are centred, scaled to one length, projected to the directions of linear
    discriminant analysis, centred and scaled once more; the two-covariance model of the result is
    estimated by expectation maximisation.

    Parameters
    ----------
    embeddings : (num_embeddings, D) array
    speakers : (num_embeddings,) array
        Whose they are, as strings or as integers.
    dimension : int
        Directions that are kept, d: at most D, at most 128 (upstream's loader takes no more), and
        less than there are speakers.

    Returns
    -------
    arrays : dict
        ``xvec_transform`` with ``mean1`` (D,), ``lda`` (D, d), ``mean2`` (d,), and ``plda`` with
        ``mu`` (d,), ``tr`` (d, d), ``psi`` (d,).

    Raises
    ------
    ValueError
        If there are too few speakers or embeddings, or embeddings that are not finite or do not
        vary within speakers in all dimensions.

    References
    ----------
    Ioffe, "Probabilistic linear discriminant analysis", ECCV 2006. Brümmer and de Villiers, "The
    speaker partitioning problem", Odyssey 2010 (the two-covariance model). Landini et al.,
    "Bayesian HMM clustering of x-vector sequences (VBx) in speaker diarization", Computer Speech
    and Language 71, 2022.
    """
    embeddings = np.asarray(embeddings, dtype=float)
    names, speakers = np.unique(np.asarray(speakers), return_inverse=True)
    if len(embeddings) != len(speakers):
        raise ValueError(f"{len(embeddings)} embeddings have {len(speakers)} speakers")
    if not np.isfinite(embeddings).all():
        raise ValueError("embeddings must be finite: leave those out that are not")
    check_dimension(dimension)
    if dimension > embeddings.shape[1] or dimension >= len(names):
        raise ValueError(
            f"{dimension} directions cannot be had of {embeddings.shape[1]} dimensions and "
            f"{len(names)} speakers: there must be at least as many dimensions, and more speakers"
        )
    if len(embeddings) < embeddings.shape[1] + len(names):
        raise ValueError(
            f"{len(embeddings)} embeddings of {len(names)} speakers do not tell how the "
            f"{embeddings.shape[1]} dimensions vary within a speaker: at least "
            f"{embeddings.shape[1] + len(names)} are needed"
        )
    mean1 = embeddings.mean(axis=0)
    unit = np.sqrt(embeddings.shape[1]) * l2_norm(embeddings - mean1)
    within, between = _moments(unit, speakers)
    try:
        lda = eigh(between, within)[1][:, ::-1][:, :dimension]
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "embeddings do not vary within speakers in all dimensions: leave out those that are "
            "there twice, and dimensions that are constant"
        ) from error
    projected = unit @ lda
    mean2 = projected.mean(axis=0)
    projected = np.sqrt(dimension) * l2_norm(projected - mean2)
    mu, within, between = _two_covariances(projected, speakers)
    psi, directions = eigh(between, within)
    return {
        "xvec_transform": {"mean1": mean1, "lda": lda, "mean2": mean2},
        "plda": {"mu": mu, "tr": directions.T[::-1], "psi": psi[::-1]},
    }


def check_dimension(dimension: int) -> None:
    """Refuse numbers of directions that upstream's loader would cut (ValueError)."""
    if not 1 <= dimension <= DIMENSION:
        raise ValueError(f"dimension is {dimension}: it must be from 1 to {DIMENSION}")


def save_plda(arrays: dict[str, dict[str, np.ndarray]], folder: str | Path) -> PLDA:
    """Write a folder for `PLDA.from_pretrained`, in single precision, and load it.

    Parameters
    ----------
    arrays : dict
        As `estimate_plda` returns it.
    folder : path

    Returns
    -------
    plda : PLDA
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        with atomic(folder / f"{name}.npz") as unfinished, unfinished.open("wb") as file:
            np.savez(file, **{key: value.astype(np.float32) for key, value in values.items()})
    dimension = len(arrays["plda"]["psi"])
    return PLDA(folder / "xvec_transform.npz", folder / "plda.npz", lda_dimension=dimension)


def _moments(vectors: np.ndarray, speakers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariances within speakers and of their means, each (D, D)."""
    sums, number = _by_speaker(vectors, speakers)
    means = sums / number[:, None]
    rest = vectors - means[speakers]
    within = rest.T @ rest / (len(vectors) - len(number))
    return within, np.atleast_2d(np.cov(means, rowvar=False))


def _by_speaker(vectors: np.ndarray, speakers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (S, D) and numbers (S,) of vectors of each speaker."""
    number = np.bincount(speakers)
    sums = np.zeros((len(number), vectors.shape[1]))
    np.add.at(sums, speakers, vectors)
    return sums, number


def _two_covariances(
    vectors: np.ndarray, speakers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, covariance within and covariance between of the two-covariance model, by EM.

    A speaker is y ~ N(mu, between), a vector of theirs x ~ N(y, within).
    """
    sums, number = _by_speaker(vectors, speakers)
    scatter = vectors.T @ vectors
    mu = vectors.mean(axis=0)
    within, between = _moments(vectors, speakers)
    for _ in range(ITERATIONS):
        # in the basis where `within` is one and `between` diagonal, all speakers at once
        psi, basis = eigh(between, within)
        psi = psi.clip(min=1e-6)
        precision = 1 / psi + number[:, None]  # (S, D)
        prior = mu @ basis / psi
        means = (prior + sums @ basis) / precision  # (S, D) in that basis
        back = np.linalg.inv(basis)
        variance = (back.T * (1 / precision).sum(axis=0)) @ back
        weighed = (back.T * (number[:, None] / precision).sum(axis=0)) @ back
        means = means @ back
        mu = means.mean(axis=0)
        between = ((means - mu).T @ (means - mu) + variance) / len(number)
        cross = means.T @ sums
        within = scatter - cross - cross.T + (means.T * number) @ means + weighed
        within = (within + within.T) / (2 * len(vectors))
    return mu, within, between
