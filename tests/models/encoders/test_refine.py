"""Score, smooth, pool, repeat: on windows whose speakers are planted."""

import pytest
import torch
import torch.nn.functional as F

from pyannote_weighter.models.encoders.refine import (
    SlotCompetition,
    SlotRefiner,
    TemporalSmoother,
    convolve,
)
from pyannote_weighter.weighting import normalize


def mean_of(windows: torch.Tensor):
    """Embeddings are weighted means of the windows."""
    return lambda x: normalize(x).transpose(1, 2) @ windows


def planted(turns: list[int], length: int = 20, dimension: int = 24) -> torch.Tensor:
    """(1, turns * length, dimension) windows: one direction a speaker, and some noise."""
    speakers = torch.linalg.qr(torch.randn(dimension, dimension))[0][: max(turns) + 1]
    clean = speakers[torch.tensor(turns)].repeat_interleave(length, dim=0)
    return (4 * clean + 0.3 * torch.randn_like(clean))[None]


def test_finds_planted_speakers_untrained():
    torch.manual_seed(0)
    turns = [0, 1, 0, 2, 1, 2]
    windows = planted(turns)
    refiner = SlotRefiner(in_dimension=24, num_slots=3, dimension=24)
    ones = torch.ones(windows.shape[:2])
    weightings, embeddings, _ = refiner(windows, ones, ones, embed=mean_of(windows))
    assert len(weightings) == len(embeddings) == refiner.num_rounds
    slot_of_turn = weightings[-1][0].unflatten(0, (6, 20))[:, 2:-2].argmax(-1)  # (turns, 16)
    assert all(len(set(slots.tolist())) == 1 for slots in slot_of_turn)
    slots = slot_of_turn[:, 0].tolist()
    assert len(set(slots)) == 3
    assert [slots[turns.index(t)] for t in turns] == slots


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_mixed_precision_changes_nothing(half):
    torch.manual_seed(0)
    refiner = SlotRefiner(24, num_slots=3, dimension=12, second_head=True)
    windows, speech = torch.randn(2, 60, 24), torch.rand(2, 60).to(half)
    embed, inside = mean_of(windows), torch.ones(2, 60)
    for start in (None, torch.rand(2, 60, 4)):
        # `embed` is asked in full precision too, weightings given in half precision are turned
        expected = refiner(windows, speech.float(), speech.float(), embed, inside, start)
        with torch.autocast("cpu", dtype=half):
            found = refiner(windows, speech, speech, embed, inside, start)
        for some, others in zip(found, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_starts_are_far_apart_and_usable():
    torch.manual_seed(0)
    windows = F.normalize(planted([0, 1, 2, 3]), dim=-1)
    usable = torch.ones(1, 80)
    usable[:, :20] = 0.0  # nobody speaks alone in the first turn
    starts = SlotRefiner(24, num_slots=3, dimension=24).start(windows, usable)
    cosine = starts @ starts.transpose(1, 2) - torch.eye(3)
    assert cosine.abs().max() < 0.4
    centers = F.normalize(windows.unflatten(1, (4, 20)).mean(2), dim=-1)  # (1, turns, D)
    closest = (starts @ centers.transpose(1, 2))[0].argmax(-1)
    assert sorted(closest.tolist()) == [1, 2, 3]


def test_speech_bounds_weightings():
    torch.manual_seed(0)
    windows, speech = torch.randn(2, 30, 24), torch.rand(2, 30)
    refiner = SlotRefiner(24, num_slots=4, dimension=12)
    weightings, _, _ = refiner(windows, speech, 0.5 * speech, embed=mean_of(windows))
    for x in weightings:
        torch.testing.assert_close(x.sum(-1), speech)


def test_files_of_a_batch_do_not_meet():
    torch.manual_seed(0)
    windows, speech = torch.randn(3, 30, 24), torch.ones(3, 30)
    refiner = SlotRefiner(24, num_slots=4, dimension=12)
    torch.nn.init.normal_(refiner.smoother.outlet.weight)
    torch.nn.init.normal_(refiner.competition.outlet.weight)
    together, _, _ = refiner(windows, speech, speech, embed=mean_of(windows))
    for i in range(3):
        one = slice(i, i + 1)
        alone, _, _ = refiner(windows[one], speech[one], speech[one], embed=mean_of(windows[one]))
        torch.testing.assert_close(together[-1][one], alone[-1], rtol=1e-4, atol=1e-5)


def test_smoother_treats_slots_alike_and_padding_as_nothing():
    torch.manual_seed(0)
    smoother = TemporalSmoother(in_features=3, hidden=8)
    assert (smoother(torch.randn(1, 9, 2, 3)) == 0).all()  # starts as doing nothing
    torch.nn.init.normal_(smoother.outlet.weight)
    evidence = torch.randn(2, 40, 5, 3)
    scores = smoother(evidence)
    order = torch.randperm(5)
    torch.testing.assert_close(smoother(evidence[:, :, order]), scores[:, :, order])
    inside = (torch.arange(40) < 25).float().expand(2, 40)
    padded = smoother(evidence, inside)[:, :25]
    torch.testing.assert_close(padded, smoother(evidence[:, :25]))


@pytest.mark.parametrize("groups, dilation", [(1, 1), (4, 3), (2, 9)])
def test_convolution_is_that_of_the_layer(groups, dilation):
    torch.manual_seed(0)
    layer = torch.nn.Conv1d(16, 8, 5, dilation=dilation, padding=2 * dilation, groups=groups)
    series = torch.randn(3, 30, 16, requires_grad=True)
    weights = torch.randn(3, 30, 8)
    found, expected = convolve(series, layer), layer(series.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    inputs = [series, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_smoother_against_its_layers(padded):
    """Slot by slot, channels first, layer by layer."""
    torch.manual_seed(0)
    smoother = TemporalSmoother(in_features=7)
    torch.nn.init.normal_(smoother.outlet.weight)
    evidence = torch.randn(2, 50, 3, 7)
    inside = (torch.arange(50) < torch.tensor([[50], [31]])).float() if padded else None
    found = smoother(evidence, inside)
    for b in range(2):
        for n in range(3):
            x = smoother.inlet(evidence[b, :, n].T)  # (channels, T)
            for layer in smoother.layers:
                x = x if inside is None else x * inside[b]
                x = x + F.gelu(layer(x))
            torch.testing.assert_close(found[b, :, n], smoother.outlet(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_slots", [1, 4])
def test_competition_ignores_empty_slots_and_itself(num_slots):
    torch.manual_seed(0)
    competition = SlotCompetition(hidden=8)
    torch.nn.init.normal_(competition.outlet.weight)
    means = F.normalize(torch.randn(2, num_slots, 6), dim=-1)
    share = torch.zeros(2, num_slots)
    share[:, 0] = 1.0  # all others are empty
    one = torch.ones(2, num_slots)
    bias = competition(means, means, share, one, share)
    assert bias.shape == (2, num_slots)
    assert (bias[:, 0] == 0).all() and (bias[:, 1:] != 0).all()


# -- average over neighbours ----------------------------------------------------------------------


def slow_average(cosine, usable, log_kernel, inside=None) -> torch.Tensor:
    """Window by window, neighbour by neighbour, slot by slot."""
    kernel, half = log_kernel.exp(), len(log_kernel) // 2
    averaged = torch.zeros_like(cosine)
    B, T, N = cosine.shape
    for b in range(B):
        for t in range(T):
            total, held = torch.zeros(N), 0.0
            for u in range(max(0, t - half), min(T, t + half + 1)):
                weight = kernel[u - t + half] * (usable[b, u] + 0.05)
                if inside is not None:
                    weight = weight * inside[b, u]
                total, held = total + weight * cosine[b, u], held + weight
            averaged[b, t] = total / held if held > 0 else 0.0
    return averaged


@pytest.mark.parametrize("num_windows", [1, 4, 40])  # the kernel has 15 taps
def test_average_against_slow_reference(num_windows):
    torch.manual_seed(0)
    refiner = SlotRefiner(24, num_slots=3)
    torch.nn.init.normal_(refiner.log_kernel)  # not symmetric either
    cosine, usable = 2 * torch.rand(2, num_windows, 3) - 1, torch.rand(2, num_windows)
    with torch.no_grad():
        for inside in (None, (torch.arange(num_windows) < 25).float().expand(2, -1)):
            averaged = refiner.average(cosine, usable, inside)
            expected = slow_average(cosine, usable, refiner.log_kernel, inside)
            torch.testing.assert_close(averaged, expected, rtol=1e-4, atol=1e-5)


def test_average_keeps_what_is_constant_and_skips_what_is_unusable():
    torch.manual_seed(0)
    refiner = SlotRefiner(24, num_slots=2)
    assert len(refiner.log_kernel) % 2 == 1
    constant = torch.tensor([0.7, -0.2]).expand(1, 50, 2)
    for usable in (torch.ones(1, 50), torch.zeros(1, 50), torch.rand(1, 50)):
        torch.testing.assert_close(refiner.average(constant, usable), constant)
    # one loud window where nobody talks alone hardly moves its neighbours
    cosine, usable = torch.zeros(1, 50, 2), torch.ones(1, 50)
    cosine[0, 25] = 1.0
    among = refiner.average(cosine, usable)[0, 25, 0]
    usable[0, 25] = 0.0
    assert refiner.average(cosine, usable)[0, 25, 0] < 0.1 * among


def test_average_of_padding_is_finite():
    refiner = SlotRefiner(24, num_slots=2)
    cosine = torch.randn(1, 60, 2, requires_grad=True)
    inside = (torch.arange(60) < 20).float()[None]
    averaged = refiner.average(cosine, inside, inside)
    alone = refiner.average(cosine[:, :20], inside[:, :20])
    torch.testing.assert_close(averaged[:, :20], alone)
    averaged.sum().backward()
    assert torch.isfinite(averaged).all() and torch.isfinite(cosine.grad).all()
    assert torch.isfinite(refiner.log_kernel.grad).all()


def test_last_rounds_are_those_of_the_end():
    """From where the others have come, the last rounds end where all rounds do."""
    torch.manual_seed(0)
    windows = planted([0, 1, 0, 2])
    refiner = SlotRefiner(in_dimension=24, num_slots=3).eval()
    with torch.no_grad():  # rounds that differ
        refiner.log_temperature.copy_(torch.linspace(1.0, 3.0, 6))
        refiner.share_weight.copy_(torch.linspace(0.1, 0.9, 5))
    ones = torch.ones(windows.shape[:2])
    start = torch.rand(1, windows.shape[1], 3).softmax(dim=-1)
    common = {"embed": mean_of(windows)}
    with torch.inference_mode():
        every, embeddings, _ = refiner(windows, ones, ones, start=start, **common)
        last, some, _ = refiner(windows, ones, ones, start=every[2], last=2, **common)
        unfinished, none, _ = refiner(
            windows, ones, ones, start=every[2], last=1, finish=False, **common
        )
    assert (len(every), len(last), len(unfinished), len(none)) == (5, 2, 1, 0)
    for whole, part in zip((every[3:], embeddings[3:]), (last, some), strict=True):
        for a, b in zip(whole, part, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(unfinished[0], every[3])
