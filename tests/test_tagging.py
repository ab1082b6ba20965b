"""The tagging rate, estimated from synthetic claims of which the truth is known."""

import pytest
import torch

from pyannote_weighter.tagging import NUM_BINS, TaggingRate, tagging_rate

NUM_FILES, NUM_SPEAKERS, NUM_PRESENT = 400, 60, 4


def claims_of(num_files: int = NUM_FILES, present: float = 2.0, absent: float = -6.0, seed=0):
    """Claims (file, speaker) with logits around two means, and who is present."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.rand(num_files, NUM_SPEAKERS, generator=generator).argsort(dim=1) < NUM_PRESENT
    noise = 2 * torch.randn(num_files, NUM_SPEAKERS, generator=generator)
    return torch.sigmoid(torch.where(there, present, absent) + noise), there


def tags_of(there, rate: float, seed: int = 0):
    generator = torch.Generator().manual_seed(seed + 1)
    tagged = there & (torch.rand(there.shape, generator=generator) < rate)
    return [row.nonzero().squeeze(1) for row in tagged]


def estimate(claims, likes) -> float:
    rate = TaggingRate(first=0.3)
    for start in range(0, len(claims), 16):
        rate.observe(claims[start : start + 16], likes[start : start + 16])
    assert rate.rate.item() == pytest.approx(0.3)
    rate.set_epoch(1)
    return rate.rate.item()


@pytest.mark.parametrize("rate", [1.0, 0.75, 0.5, 0.25])
@pytest.mark.parametrize("present, absent", [(2.0, -6.0), (0.0, -6.0), (2.0, -3.0)])
def test_known_rates(rate, present, absent):
    """Also where few of those present are heard with certainty, and where many are confounded."""
    errors = []
    for seed in range(3):
        claims, there = claims_of(present=present, absent=absent, seed=seed)
        errors.append(estimate(claims, tags_of(there, rate, seed)) - rate)
    assert max(map(abs, errors)) < 0.1, errors
    assert abs(sum(errors) / 3) < 0.06


def test_files_with_unknown_likes_do_not_count():
    claims, there = claims_of()
    likes = tags_of(there, 0.5)
    alone = estimate(claims[::2], likes[::2])
    assert estimate(claims, [x if i % 2 == 0 else None for i, x in enumerate(likes)]) == alone


def test_what_breaks_the_assumptions_errs_as_the_docstring_says():
    claims, there = claims_of()
    likes = tags_of(there, 0.5)
    tagged = torch.zeros_like(there)
    for row, names in zip(tagged, likes, strict=True):
        row[names] = True
    by_heart = torch.sigmoid(torch.logit(claims) - 3.0 * (there & ~tagged))
    assert estimate(by_heart, likes) > 0.6
    wrong = [torch.unique(torch.cat([x[1:], torch.tensor([i % 60])])) for i, x in enumerate(likes)]
    assert estimate(claims, wrong) < 0.45
    confounded = torch.where(torch.rand(there.shape) < 0.05, 0.99, claims)
    assert estimate(confounded, likes) < 0.45


def test_formula_on_a_histogram_by_hand():
    tagged, untagged = torch.zeros(4), torch.zeros(4)
    tagged[2], tagged[3] = 40, 60
    untagged[0], untagged[1], untagged[2], untagged[3] = 9000, 500, 90, 30
    # 0.6 of the tagged reach the last bin, and 30 untagged ones: 50 of them are present
    assert tagging_rate(tagged, untagged) == pytest.approx(100 / 150)


def test_nothing_tagged_and_nothing_observed():
    assert tagging_rate(torch.zeros(8), torch.ones(8)) == 1.0
    assert tagging_rate(torch.zeros(8), torch.zeros(8)) == 1.0
    assert tagging_rate(torch.ones(8), torch.zeros(8)) == 1.0


def test_another_training_starts_as_the_first():
    rate, (claims, there) = TaggingRate(0.3), claims_of(num_files=32)
    rate.observe(claims, tags_of(there, 0.5))
    rate.set_epoch(4)
    rate.observe(claims, tags_of(there, 0.5))
    assert rate.rate.item() != pytest.approx(0.3)
    rate.reset()
    for name, value in TaggingRate(0.3).state_dict().items():
        assert torch.equal(rate.state_dict()[name], value)


def test_epochs_start_again_and_survive_a_checkpoint():
    first, second = TaggingRate(0.3), TaggingRate(0.3)
    claims, there = claims_of(num_files=32)
    first.observe(claims, tags_of(there, 0.5))
    assert first.tagged.sum() + first.untagged.sum() == 32 * NUM_SPEAKERS
    second.load_state_dict(first.state_dict())
    for rate in (first, second):
        rate.set_epoch(1)
        assert rate.tagged.sum() == rate.untagged.sum() == 0 and len(rate.tagged) == NUM_BINS
    assert first.rate == second.rate != 0.3
    estimated = first.rate.item()
    first.set_epoch(1)  # once an epoch
    assert first.rate.item() == estimated


def test_a_whole_number_to_begin_with():
    assert TaggingRate(1).rate.is_floating_point()
