"""Planted speakers are found from likes alone."""

import torch
import torch.nn.functional as F

from pyannote_weighter.tasks.prototypes import shared_prototypes


def planted(num_speakers=8, num_files=60, per_file=3, num_slots=6, dimension=32, seed=0):
    """Files of slots: the liked speakers, one who is not liked, and slots of noise."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    speakers = F.normalize(noise(num_speakers, dimension), dim=-1)
    embeddings, weights, likes = [], [], []
    for _ in range(num_files):
        chosen = torch.randperm(num_speakers, generator=generator)[: per_file + 1]
        slots = F.normalize(noise(num_slots, dimension), dim=-1)
        slots[: per_file + 1] = speakers[chosen]
        slots = slots + 0.3 * F.normalize(noise(num_slots, dimension), dim=-1)
        weight = torch.tensor([0.25] * (per_file + 1) + [0.01] * (num_slots - per_file - 1))
        order = torch.randperm(num_slots, generator=generator)
        embeddings.append(5 * slots[order])
        weights.append(weight[order] / weight.sum())
        likes.append(chosen[:per_file].sort().values)
    return speakers, embeddings, weights, likes


def test_finds_planted_speakers():
    speakers, embeddings, weights, likes = planted()
    prototypes = shared_prototypes(embeddings, weights, likes, num_speakers=8)
    torch.testing.assert_close(prototypes.norm(dim=-1), torch.ones(8))
    cosine = prototypes @ speakers.T
    assert cosine.argmax(dim=1).tolist() == list(range(8))
    assert cosine.diagonal().min() > 0.9


def test_same_input_same_output_and_input_left_alone():
    _, embeddings, weights, likes = planted(num_files=10)
    before = [e.clone() for e in embeddings]
    first = shared_prototypes(embeddings, weights, likes, num_speakers=8)
    torch.manual_seed(123)
    assert torch.equal(first, shared_prototypes(embeddings, weights, likes, num_speakers=8))
    assert all(torch.equal(a, b) for a, b in zip(before, embeddings, strict=True))


def test_unliked_speakers_and_files_without_likes():
    _, embeddings, weights, likes = planted(num_files=12)
    likes[3] = likes[7] = torch.tensor([], dtype=torch.long)
    likes = [speakers[speakers != 5] for speakers in likes]  # nobody likes speaker 5
    prototypes = shared_prototypes(embeddings, weights, likes, num_speakers=9)
    assert prototypes.shape == (9, 32) and prototypes.isfinite().all()
    torch.testing.assert_close(prototypes.norm(dim=-1), torch.ones(9))

    nothing = [torch.tensor([], dtype=torch.long)] * len(embeddings)
    nobody = shared_prototypes(embeddings, weights, nothing, num_speakers=2)
    torch.testing.assert_close(nobody.norm(dim=-1), torch.ones(2))


def test_more_likes_than_slots_and_silent_slots():
    embeddings = [torch.randn(2, 8), torch.zeros(2, 8)]
    weights = [torch.tensor([0.5, 0.5]), torch.zeros(2)]
    likes = [torch.arange(5), torch.tensor([0, 1])]
    prototypes = shared_prototypes(embeddings, weights, likes, num_speakers=5)
    assert prototypes.shape == (5, 8) and prototypes.isfinite().all()


def test_rounds_bring_prototypes_closer():
    speakers, embeddings, weights, likes = planted()
    start = shared_prototypes(embeddings, weights, likes, num_speakers=8, num_rounds=0)
    end = shared_prototypes(embeddings, weights, likes, num_speakers=8)
    assert (end * speakers).sum(-1).mean() > (start * speakers).sum(-1).mean()
