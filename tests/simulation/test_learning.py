"""Training on simulated vectors."""

import math

import pytest
import torch

from pyannote_weighter.models.encoders.markov import MarkovRefiner
from pyannote_weighter.models.encoders.message import MessageRefiner
from pyannote_weighter.simulation.learning import (
    Conditions,
    LikesLoss,
    align,
    frame_loss,
    train,
)
from pyannote_weighter.simulation.limits import known_means_hmm, known_means_walk
from pyannote_weighter.simulation.rivals import k_means, smoothed_k_means, vbx_loop
from pyannote_weighter.simulation.scoring import accuracy
from pyannote_weighter.simulation.vectors import RandomWalkVectors, dominance

EASY = Conditions(
    dimensions=(16,), speakers=(2,), lengths=(120,), scales=(10.0, 12.0), noise=(0.3, 0.8)
)


def spoilt(seed: int = 0) -> MarkovRefiner:
    """A model that smooths far too little and trusts itself far too much."""
    torch.manual_seed(seed)
    model = MarkovRefiner(num_rounds=3, dwell=(3.0,), num_phases=2)
    with torch.no_grad():
        model.log_temperature.fill_(1.0)
    return model


def mean_accuracy(model, num_speakers=2, batch=40, **recipe) -> float:
    recipe = {"dimension": 16, "num_frames": 300, "scale": 12.0, "sigma": 4.0} | recipe
    sequences = RandomWalkVectors(num_speakers, **recipe).draw(
        batch, torch.Generator().manual_seed(99)
    )
    with torch.no_grad():
        labels = model.eval()(sequences.frames, num_speakers).weightings[-1].argmax(-1)
    return accuracy(labels, sequences.speaker).mean().item()


@pytest.mark.parametrize(
    "loss", [frame_loss, LikesLoss(), LikesLoss(missing=0.5)], ids=["frames", "likes", "half"]
)
def test_training_repairs_a_spoilt_model(loss):
    model = spoilt()
    before = mean_accuracy(model)
    losses = list(train(model, loss, EASY, num_steps=30, learning_rate=0.1, seed=1))
    assert len(losses) == 30 and all(map(math.isfinite, losses))
    assert not model.training
    assert mean_accuracy(model) > before + 0.03


def test_quick_run_from_likes_reaches_its_accuracy():
    """The fixed-seed run: 20 steps from likes, then between smoothed k-means and the oracle."""
    torch.manual_seed(0)
    model = MarkovRefiner(num_rounds=4)
    conditions = Conditions(dimensions=(32,), speakers=(2,), lengths=(150,), batch_size=8)
    list(train(model, LikesLoss(), conditions, num_steps=20, learning_rate=0.02, seed=0))
    recipe = RandomWalkVectors(2, scale=30.0, num_frames=600, dimension=32, sigma=7.0)
    sequences = recipe.draw(60, torch.Generator().manual_seed(5))
    sequences = type(sequences)(*(x[dominance(sequences.active) <= 0.8] for x in sequences))
    with torch.no_grad():
        learned = model(sequences.frames, 2).weightings[-1].argmax(-1)
    smoothed = smoothed_k_means(sequences.frames, 2, window=25, seed=0)
    oracle = known_means_hmm(sequences.frames, sequences.vectors, 7.0, 30.0).argmax(-1)
    learned, smoothed, oracle = (
        accuracy(labels, sequences.speaker).mean() for labels in (learned, smoothed, oracle)
    )
    assert learned > 0.90
    assert smoothed < learned < oracle


def test_nothing_lies_above_the_ceiling():
    recipe = RandomWalkVectors(2, scale=20.0, num_frames=250, dimension=16, sigma=4.0)
    sequences = recipe.draw(60, torch.Generator().manual_seed(8))
    frames, speaker = sequences.frames, sequences.speaker
    ceiling = known_means_walk(frames, sequences.vectors, 4.0, 20.0).argmax(-1)
    with torch.no_grad():
        core = MarkovRefiner().eval()(frames, 2).weightings[-1].argmax(-1)
    for labels in (k_means(frames, 2), smoothed_k_means(frames, 2, 25), vbx_loop(frames, 2), core):
        above = accuracy(labels, speaker) - accuracy(ceiling, speaker)
        assert above.mean() < 2 * above.std() / len(above) ** 0.5


def test_conditions_are_drawn_within_their_ranges_and_repeat_with_their_seed():
    conditions = Conditions(batch_size=3)
    drawn = [conditions.draw(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0][1].frames, drawn[1][1].frames)
    assert not drawn[0][1].frames.shape == drawn[2][1].frames.shape or not torch.equal(
        drawn[0][1].frames, drawn[2][1].frames
    )
    for seed in range(30):
        recipe, sequences = conditions.draw(torch.Generator().manual_seed(seed))
        assert recipe.dimension in conditions.dimensions
        assert 15 <= recipe.scale <= 130
        relative = recipe.num_speakers / 2 * recipe.sigma / recipe.dimension**0.5
        assert 0.5 <= relative <= 1.8
        assert len(sequences.frames) == 3


def test_frame_loss_does_not_depend_on_the_order_of_slots():
    recipe = RandomWalkVectors(3, scale=10.0, num_frames=80, dimension=8, sigma=1.0)
    sequences = recipe.draw(4, torch.Generator().manual_seed(0))
    model = MarkovRefiner(num_rounds=2)
    refined = model(sequences.frames, 3)
    turned = refined._replace(weightings=[x[..., [2, 0, 1]] for x in refined.weightings])
    torch.testing.assert_close(
        frame_loss(model, refined, sequences, None), frame_loss(model, turned, sequences, None)
    )
    perfect = refined._replace(weightings=[sequences.active.float()] * 2)
    assert frame_loss(model, perfect, sequences, None) < 1e-4


def test_frames_of_nobody_and_of_two_do_not_count():
    recipe = RandomWalkVectors(2, 10.0, 60, 8, 1.0, overlap=0.2, silence=0.3)
    sequences = recipe.draw(4, torch.Generator().manual_seed(0))
    alone = sequences.active.sum(-1) == 1
    assert not alone.all()
    model = MarkovRefiner(num_rounds=1)
    refined = model(sequences.frames, 2)
    other = [torch.where(alone[..., None], x, 0.5) for x in refined.weightings]
    torch.testing.assert_close(
        frame_loss(model, refined, sequences, None),
        frame_loss(model, refined._replace(weightings=other), sequences, None),
    )


def test_likes_are_left_out_at_their_rate_and_none_at_all_is_no_error():
    recipe = RandomWalkVectors(2, 10.0, 60, 8, 1.0)
    sequences = recipe.draw(4, torch.Generator().manual_seed(0))
    model = MarkovRefiner(num_rounds=2)
    refined = model(sequences.frames, 2)
    generator = torch.Generator().manual_seed(0)
    loss = LikesLoss(missing=1.0)(model, refined, sequences, generator)
    loss.backward()
    assert loss.isfinite() and model.turns.leave.grad.isfinite().all()


@pytest.mark.parametrize("core", [MarkovRefiner, MessageRefiner])
def test_alignment_places_a_liked_speaker_where_it_speaks(core):
    recipe = RandomWalkVectors(2, scale=10.0, num_frames=200, dimension=16, sigma=3.0)
    sequences = recipe.draw(6, torch.Generator().manual_seed(0))
    model = core(num_rounds=2).eval()
    with torch.no_grad():
        refined = model(sequences.frames, 2)
        # the same likes for slots 0 and 1, whatever the model has put there
        speakers = torch.arange(12).view(6, 2)
        assignment = [(torch.tensor([0, 1]), pair) for pair in speakers]
        vectors = sequences.vectors.flatten(0, 1)
        target, surprise = align(model, refined, sequences.frames, vectors, assignment)
    right = (target.argmax(-1) == sequences.speaker).float().mean()
    blind = accuracy(refined.weightings[-1].argmax(-1), sequences.speaker).mean()
    assert right > 0.95 and right >= blind
    assert surprise > 0
