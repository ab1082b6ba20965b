"""Plans of batches: who takes what, and how much of it is padding."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyannote_weighter.tasks.batching import plan_epoch


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=300),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 1000),
)
def test_every_file_once_and_all_processes_alike(lengths, batch_size, num_processes, seed):
    steps = plan_epoch(lengths, 0.3, batch_size, num_processes, (seed, 0))
    share = -(-len(lengths) // num_processes)
    assert len(steps) == -(-share // batch_size)
    sizes = Counter(step.shape for step in steps)
    assert all(shape[0] == num_processes and shape[2] == 2 for shape in sizes)
    # only one step is smaller
    assert sum(n for shape, n in sizes.items() if shape[1] < batch_size) <= 1
    assert sum(step.shape[1] for step in steps) == share
    times = Counter(np.concatenate([step[..., 0].ravel() for step in steps]).tolist())
    assert set(times) == set(range(len(lengths)))
    extra = share * num_processes - len(lengths)
    assert sum(times.values()) == len(lengths) + extra


def test_processes_see_different_files():
    steps = plan_epoch(np.arange(1, 41), 0.0, 2, 2, (0, 0))
    shares = [{i for step in steps for i in step[rank, :, 0].tolist()} for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == 20 and not shares[0] & shares[1]
    # the two wait for each other: within a step they have about equally much to do
    work = np.array([step[..., 0].sum(axis=1) for step in steps])
    assert np.abs(work[:, 0] - work[:, 1]).max() <= 2


def test_two_processes_do_the_steps_of_one():
    """The same files at a time: gradients are those of one process with twice the batch."""
    lengths = np.random.default_rng(0).integers(1, 500, 60)
    one, two = (plan_epoch(lengths, 0.2, 4 // n, n, (3, 1)) for n in (1, 2))
    assert [sorted(s.reshape(-1, 2).tolist()) for s in one] == [
        sorted(s.reshape(-1, 2).tolist()) for s in two
    ]


def test_plan_depends_on_seed_and_epoch_alone():
    def plan(seed, epoch):
        return [step.tolist() for step in plan_epoch([5] * 20, 0.5, 3, 1, (seed, epoch))]

    assert plan(1, 2) == plan(1, 2)
    assert plan(1, 2) != plan(1, 3) and plan(1, 2) != plan(2, 2)


@pytest.mark.parametrize("splice, least, most", [(0.0, 0.0, 0.0), (0.2, 0.15, 0.25), (1.0, 1, 1)])
def test_share_of_spliced_files(splice, least, most):
    steps = plan_epoch([10] * 2000, splice, 4, 1, (0, 0))
    appended = np.concatenate([step[..., 1].ravel() for step in steps])
    assert least <= (appended >= 0).mean() <= most
    assert splice == 0 or len(set(appended.tolist())) > 100


def test_only_files_of_one_kind_are_spliced():
    kinds = np.array([7, 2, 7, 2, 2, 9, 7, 2] * 20)
    partners = Counter()
    for epoch in range(20):
        for step in plan_epoch(np.ones(len(kinds)), 0.5, 4, 1, (0, epoch), kinds):
            for first, second in step[0].tolist():
                if second >= 0:
                    assert kinds[first] == kinds[second]
                    partners[second] += 1
    assert set(partners) == set(range(len(kinds)))  # everybody of that kind comes into question


def padded_share(totals, batches) -> float:
    padded = sum(len(batch) * max(totals[i] for i in batch) for batch in batches)
    return 1 - sum(totals[i] for batch in batches for i in batch) / padded


@pytest.mark.parametrize("num_files, most", [(60, 0.12), (1000, 0.07)])
def test_little_padding(num_files, most):
    """Files of 10 s to 10 min: a third and more of a batch at random, next to nothing here."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.uniform(np.log(500), np.log(30000), num_files)).astype(int)
    shuffled = rng.permutation(num_files).reshape(-1, 4)
    steps = plan_epoch(lengths, 0.0, 4, 1, (0, 0))
    assert padded_share(lengths, shuffled) > 0.4
    assert padded_share(lengths, [step[0, :, 0] for step in steps]) < most


def test_long_and_short_batches_alternate():
    steps = plan_epoch(np.arange(1000), 0.0, 4, 1, (0, 0))
    means = np.array([step[..., 0].mean() for step in steps])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2


def test_pieces_of_one_file_are_not_appended_to_each_other():
    files, some = np.repeat([0, 1, 2], [20, 20, 1]), ([100] * 41, 0.9, 4, 1, (0, 0))

    def appended(**options):
        pairs = np.concatenate(plan_epoch(*some, **options), axis=1).reshape(-1, 2)
        return pairs[pairs[:, 0].argsort(), 1]

    plain, found = appended(), appended(files=files)
    changed = plain != found
    (pieces,) = changed.nonzero()
    assert (files[pieces] == files[plain[pieces]]).all() and (pieces != plain[pieces]).all()
    assert 5 < changed.sum() < 30 and (found[changed] == -1).all()
    assert (appended(files=range(41)) == plain).all()
