"""Tests of PLDA: against plain loops, and through pyannote's own loader."""

import numpy as np
import pytest
from pyannote.audio.core.plda import PLDA
from pyannote.audio.utils.vbx import cluster_vbx

from pyannote_weighter import plda as module
from pyannote_weighter.plda import estimate_plda, save_plda


def draw(speakers: int = 300, dimension: int = 6, seed: int = 0) -> tuple:
    """Vectors of the two-covariance model, whose they are, and the two covariances."""
    rng = np.random.default_rng(seed)
    within, between = (a @ a.T for a in rng.normal(size=(2, dimension, dimension)))
    names = np.repeat(np.arange(speakers), rng.integers(1, 9, size=speakers))
    means = rng.multivariate_normal(np.full(dimension, 3.0), between, size=speakers)
    noise = rng.multivariate_normal(np.zeros(dimension), within, size=len(names))
    return means[names] + noise, names, within, between


def plain_em(vectors, names, mu, within, between):
    """One round of expectation maximisation, speaker by speaker."""
    means, covariances = [], []
    for name in np.unique(names):
        own = vectors[names == name]
        covariance = np.linalg.inv(np.linalg.inv(between) + len(own) * np.linalg.inv(within))
        pulled = np.linalg.inv(between) @ mu + np.linalg.inv(within) @ own.sum(axis=0)
        means.append(covariance @ pulled)
        covariances.append(covariance)
    means = np.array(means)
    mu = means.mean(axis=0)
    spread = np.zeros_like(within)
    rest = np.zeros_like(within)
    for name, mean, covariance in zip(np.unique(names), means, covariances, strict=True):
        spread += np.outer(mean - mu, mean - mu) + covariance
        for vector in vectors[names == name]:
            rest += np.outer(vector - mean, vector - mean) + covariance
    return mu, rest / len(vectors), spread / len(means)


def test_covariances_are_those_of_plain_loops(monkeypatch):
    vectors, names, *_ = draw(speakers=40)
    mu = vectors.mean(axis=0)
    plain = plain_em(vectors, names, mu, *module._moments(vectors, names))
    plain = plain_em(vectors, names, *plain)
    monkeypatch.setattr(module, "ITERATIONS", 2)
    for found, wanted in zip(module._two_covariances(vectors, names), plain, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_covariances_are_found_again():
    vectors, names, within, between = draw(speakers=4000)
    mu, found_within, found_between = module._two_covariances(vectors, names)
    for found, true in ((found_within, within), (found_between, between)):
        assert np.abs(found - true).max() < 0.1 * np.abs(true).max()
    standard_error = np.sqrt(np.diag(between) / 4000)
    assert (np.abs(mu - 3) < 4 * standard_error).all()


def test_pyannote_loads_it_and_finds_what_plda_assumes(tmp_path):
    """In its space vectors vary by one within speakers, whose means vary by phi around zero.

    Exactly so for the vectors that it was estimated on: linear maps change nothing for EM.
    """
    vectors, names, *_ = draw(speakers=60, dimension=16)
    save_plda(estimate_plda(vectors, names, dimension=10), tmp_path / "plda")
    plda = PLDA.from_pretrained(str(tmp_path / "plda"))
    features = plda(vectors)
    assert features.shape == (len(vectors), 10)
    assert (np.diff(plda.phi) <= 0).all() and plda.phi[-1] >= 0
    mu, within, between = module._two_covariances(features.astype(float), names)
    np.testing.assert_allclose(mu, 0, atol=1e-4)
    np.testing.assert_allclose(within, np.eye(10), atol=1e-4)
    np.testing.assert_allclose(between, np.diag(plda.phi), atol=1e-4 * plda.phi.max())


def test_directions_are_those_in_which_speakers_differ():
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(40), 10)
    vectors = rng.normal(size=(400, 10))
    vectors[:, [1, 4, 7]] += 5 * rng.normal(size=(40, 3))[names]
    lda = estimate_plda(vectors, names, dimension=3)["xvec_transform"]["lda"]  # (10, 3)
    assert lda.shape == (10, 3)
    of_these = np.square(lda[[1, 4, 7]]).sum() / np.square(lda).sum()
    assert of_these > 0.9
    one = estimate_plda(vectors, names, dimension=1)
    assert one["plda"]["psi"].shape == (1,)


def test_vbx_with_it_finds_the_speakers(tmp_path):
    rng = np.random.default_rng(1)
    names = np.repeat(np.arange(80), 10)
    vectors = 3 * rng.normal(size=(80, 24))[names] + rng.normal(size=(len(names), 24))
    plda = save_plda(estimate_plda(vectors[30:], names[30:], dimension=20), tmp_path / "plda")
    # three speakers that PLDA has not seen, from a start that splits each in two
    start = 2 * names[:30] + np.arange(30) % 2
    shares, priors = cluster_vbx(start, plda(vectors[:30]), plda.phi, Fa=0.1, Fb=2.0)
    assert (priors > 1e-3).sum() == 3
    found = shares.argmax(axis=1)
    assert [len(set(found[names[:30] == name])) for name in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, n: (np.where(x > 3, np.nan, x), n), "must be finite"),
        (lambda x, n: (x, np.zeros_like(n)), "1 speakers"),
        (lambda x, n: (x[:30], n[:30] * 0 + np.arange(30)), "at least 36 are needed"),
        (lambda x, n: (x[:0], n[:0]), "0 speakers"),
        (lambda x, n: (x, n[1:]), "embeddings have"),
        (lambda x, n: (x * (np.arange(6) > 0), n), "do not vary within speakers"),
    ],
)
def test_what_cannot_be_estimated_is_refused(change, message):
    vectors, names, *_ = draw(speakers=60)
    with pytest.raises(ValueError, match=message):
        estimate_plda(*change(vectors, names), dimension=4)


@pytest.mark.parametrize("dimension", [0, 129])
def test_upstream_would_cut_more_directions(dimension):
    with pytest.raises(ValueError, match="from 1 to 128"):
        estimate_plda(*draw(speakers=60)[:2], dimension=dimension)


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    vectors, names, *_ = draw(speakers=60)
    arrays = estimate_plda(vectors, names, dimension=4)
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save_plda(arrays, tmp_path / "plda")
    assert not list((tmp_path / "plda").iterdir())
