"""Planted speakers are found from likes alone."""

import pytest
import torch
import torch.nn.functional as F

from pyannote_weighter.prototypes import (
    complete_likes,
    explained_speech,
    missing_likes,
    shared_prototypes,
)


def planted(
    num_speakers=8, num_files=60, per_file=3, num_slots=6, dimension=32, seed=0, liked=None
):
    """Files of slots: the liked speakers, one who is there too, and slots of noise."""
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
        likes.append(chosen[: liked or per_file].sort().values)
    return speakers, embeddings, weights, likes


def test_finds_planted_speakers():
    speakers, embeddings, weights, likes = planted()
    prototypes = shared_prototypes(embeddings, weights, likes, num_speakers=8).vectors
    torch.testing.assert_close(prototypes.norm(dim=-1), torch.ones(8))
    cosine = prototypes @ speakers.T
    assert cosine.argmax(dim=1).tolist() == list(range(8))
    assert cosine.diagonal().min() > 0.9


def test_slots_of_likes_are_those_of_their_speakers():
    speakers, embeddings, weights, likes = planted()
    found = shared_prototypes(embeddings, weights, likes, num_speakers=8)
    for slots, known, given in zip(embeddings, likes, found.slots, strict=True):
        cosine = F.normalize(slots, dim=-1) @ speakers[known].T  # (N, L)
        assert given.tolist() == cosine.argmax(dim=0).tolist()


def test_same_input_same_output_and_input_left_alone():
    _, embeddings, weights, likes = planted(num_files=10)
    before = [e.clone() for e in embeddings]
    first = shared_prototypes(embeddings, weights, likes, num_speakers=8).vectors
    torch.manual_seed(123)
    assert torch.equal(
        first, shared_prototypes(embeddings, weights, likes, num_speakers=8).vectors
    )
    assert all(torch.equal(a, b) for a, b in zip(before, embeddings, strict=True))


def test_unliked_speakers_and_files_without_likes():
    _, embeddings, weights, likes = planted(num_files=12)
    likes[3] = likes[7] = torch.tensor([], dtype=torch.long)
    likes = [speakers[speakers != 5] for speakers in likes]  # nobody likes speaker 5
    prototypes = shared_prototypes(embeddings, weights, likes, num_speakers=9).vectors
    assert prototypes.shape == (9, 32) and prototypes.isfinite().all()
    torch.testing.assert_close(prototypes.norm(dim=-1), torch.ones(9))

    nothing = [torch.tensor([], dtype=torch.long)] * len(embeddings)
    nobody = shared_prototypes(embeddings, weights, nothing, num_speakers=2).vectors
    torch.testing.assert_close(nobody.norm(dim=-1), torch.ones(2))


def test_more_likes_than_slots_and_silent_slots():
    embeddings = [torch.randn(2, 8), torch.zeros(2, 8)]
    weights = [torch.tensor([0.5, 0.5]), torch.zeros(2)]
    likes = [torch.arange(5), torch.tensor([0, 1])]
    found = shared_prototypes(embeddings, weights, likes, num_speakers=5)
    assert found.vectors.shape == (5, 8) and found.vectors.isfinite().all()
    assert sorted(found.slots[0].tolist()) == [-1, -1, -1, 0, 1]
    assert sorted(found.slots[1].tolist()) == [0, 1]


@pytest.mark.parametrize("files", [1, 2])
def test_who_is_liked_in_silence_alone_has_a_direction(files):
    _, embeddings, weights, likes = planted(num_files=12)
    before = shared_prototypes(embeddings, weights, likes, num_speakers=9)
    silent = [torch.zeros(3, 32)] * files, [torch.zeros(3)] * files, [torch.tensor([8])] * files
    found = shared_prototypes(
        embeddings + silent[0], weights + silent[1], likes + silent[2], num_speakers=9
    )
    torch.testing.assert_close(found.vectors.norm(dim=-1), torch.ones(9))
    torch.testing.assert_close(found.vectors[:8], before.vectors[:8])


def confirmations(embeddings, weights, likes, num_speakers=8):
    """(likes,) bool of all files, one after the other."""
    return torch.cat(
        shared_prototypes(embeddings, weights, likes, num_speakers=num_speakers).confirmed
    )


def test_right_likes_are_confirmed_and_wrong_ones_are_not():
    _, embeddings, weights, likes = planted(num_speakers=20, num_slots=10)
    assert confirmations(embeddings, weights, likes, 20).float().mean() > 0.97
    generator = torch.Generator().manual_seed(1)
    wrong = [torch.zeros(len(x), dtype=torch.bool) for x in likes]
    for speakers, changed in zip(likes, wrong, strict=True):
        if torch.rand((), generator=generator) < 0.5:
            absent = [k for k in range(20) if k not in speakers]
            speakers[0], changed[0] = (
                absent[torch.randint(len(absent), (), generator=generator)],
                True,
            )
    wrong = torch.cat(wrong)
    confirmed = confirmations(embeddings, weights, likes, 20)
    assert confirmed[~wrong].float().mean() > 0.95
    # one of each file may be the speaker whom nobody likes there
    assert confirmed[wrong].float().mean() < 0.3


def test_half_of_the_likes_still_find_the_speakers():
    speakers, embeddings, weights, likes = planted(num_speakers=20, num_files=80)
    generator = torch.Generator().manual_seed(2)
    likes = [x[torch.rand(len(x), generator=generator) < 0.5] for x in likes]
    found = shared_prototypes(embeddings, weights, likes, num_speakers=20)
    cosine = found.vectors @ speakers.T
    assert cosine.argmax(dim=1).tolist() == list(range(20))
    assert cosine.diagonal().min() > 0.9


def test_a_like_that_stands_alone_is_not_confirmed():
    _, embeddings, weights, likes = planted(num_files=12)
    first = next(number for number, x in enumerate(likes) if 5 in x)
    likes = [x if number == first else x[x != 5] for number, x in enumerate(likes)]
    confirmed = shared_prototypes(embeddings, weights, likes, num_speakers=8).confirmed
    assert not confirmed[first][likes[first] == 5].any()
    assert torch.cat(confirmed).any()


def test_where_everybody_is_everywhere_there_is_no_chance_level():
    speakers = F.normalize(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    likes = [torch.arange(2)] * 3
    found = shared_prototypes([speakers] * 3, [torch.full((2,), 0.5)] * 3, likes, num_speakers=2)
    assert torch.cat(found.confirmed).all()


def test_a_like_without_a_slot_elsewhere_is_not_confirmed():
    """Files of one slot and two likes have none for one of these."""
    slots = torch.eye(8)
    likes = [torch.arange(2)] * 3
    weights = [torch.ones(1), torch.ones(1), torch.full((4,), 0.25)]
    found = shared_prototypes([slots[:1], slots[1:2], slots[2:6]], weights, likes, 2)
    given = torch.stack(found.slots) >= 0
    alone = given & (given.sum(dim=0) == 1)
    assert alone.any() and not torch.stack(found.confirmed)[alone].any()


def thinned(likes, kept=0.5, seed=1):
    """Likes of which a share is kept, and the likes that are gone."""
    generator = torch.Generator().manual_seed(seed)
    keep = [torch.rand(len(speakers), generator=generator) < kept for speakers in likes]
    given = [speakers[some] for speakers, some in zip(likes, keep, strict=True)]
    return given, [speakers[~some] for speakers, some in zip(likes, keep, strict=True)]


def as_pairs(likes):
    """Set of (file, speaker)."""
    return {(n, k) for n, speakers in enumerate(likes) for k in speakers.tolist()}


def test_missing_likes_are_found_and_no_others():
    _, embeddings, weights, likes = planted(num_speakers=20, num_files=80, num_slots=10)
    given, gone = thinned(likes)
    prototypes, missing, every = complete_likes(embeddings, weights, given, num_speakers=20)
    found, gone = as_pairs(missing), as_pairs(gone)
    assert not found & as_pairs(given)
    assert len(found & gone) > 0.8 * len(gone)
    # the fourth person of each file is liked nowhere in it, but is there: found rightly as well
    present = [
        (F.normalize(e, dim=-1) @ F.normalize(prototypes.vectors, dim=-1).T).amax(dim=0) > 0.8
        for e in embeddings
    ]
    assert all(present[file][speaker] for file, speaker in found)
    assert as_pairs(every) == as_pairs(given) | found
    confirmed = torch.cat(prototypes.confirmed)
    assert len(confirmed) == len(torch.cat(every)) and confirmed.float().mean() > 0.9


def test_nothing_is_missing_where_everybody_is_liked():
    _, embeddings, weights, likes = planted(num_speakers=20, num_slots=10, liked=4)
    prototypes = shared_prototypes(embeddings, weights, likes, num_speakers=20)
    missing = missing_likes(embeddings, weights, likes, prototypes)
    assert all(prototypes.confirmed[0]) and not as_pairs(missing)


def test_missing_likes_are_bounded_and_the_nearest_come_first():
    _, embeddings, weights, likes = planted(num_speakers=20, num_files=80, num_slots=10)
    given, _ = thinned(likes)
    prototypes = shared_prototypes(embeddings, weights, given, num_speakers=20)
    every = missing_likes(embeddings, weights, given, prototypes)
    one = missing_likes(embeddings, weights, given, prototypes, most=[1.0] * len(given))
    none = missing_likes(embeddings, weights, given, prototypes, most=[0] * len(given))
    assert [few.tolist() for few in one] == [all_of_it[:1].tolist() for all_of_it in every]
    assert max(map(len, every)) > 1 and not any(map(len, none))
    for slots, found in zip(embeddings, every, strict=True):
        cosine = (F.normalize(slots, dim=-1) @ prototypes.vectors[found].T).amax(dim=0)
        assert (cosine.diff() <= 1e-6).all()


def test_missing_likes_against_a_plain_search():
    _, embeddings, weights, likes = planted(num_speakers=12, num_files=30, num_slots=8, seed=3)
    given, _ = thinned(likes, seed=2)
    prototypes = shared_prototypes(embeddings, weights, given, num_speakers=12)
    believed = {
        k
        for speakers, sure in zip(given, prototypes.confirmed, strict=True)
        for k, yes in zip(speakers.tolist(), sure.tolist(), strict=True)
        if yes
    }
    found = missing_likes(embeddings, weights, given, prototypes)
    files = zip(embeddings, weights, given, prototypes.slots, found, strict=True)
    for slots, weight, speakers, taken, answer in files:
        cosine = (F.normalize(slots, dim=-1) @ prototypes.vectors.T).tolist()
        liked = speakers.tolist()
        expected = set()
        for k in believed - set(liked):
            for n, row in enumerate(cosine):
                others = [row[j] for j in believed - set(liked) - {k}] + [row[j] for j in liked]
                least = max([prototypes.by_chance, *others]) + 0.1
                if weight[n] >= 0.01 and row[k] > least and n not in taken.tolist():
                    expected.add(k)
        assert set(answer.tolist()) == expected and len(answer) == len(expected)


def test_who_is_always_liked_beside_somebody_is_told_from_them():
    """Both voices recur in the files of the first one; only one of them recurs in the others."""
    generator = torch.Generator().manual_seed(0)
    voices = torch.randn(6, 32, generator=generator)
    likes = [[0, 1], [0, 1, 2], [0, 1, 3], *([1, k] for k in (2, 3, 4, 5, 2, 3, 4, 5))]
    embeddings, weights = [], []
    for people in likes:
        noise = 0.3 * torch.randn(len(people), 32, generator=generator)
        embeddings.append(voices[people] + noise)
        weights.append(torch.ones(len(people)) / len(people))
    for order in (1, -1):  # of names
        numbers = [torch.tensor(people) if order == 1 else 5 - torch.tensor(people)
                   for people in likes]  # fmt: skip
        found = shared_prototypes(embeddings, weights, numbers, 6)
        for people, slots in zip(likes, found.slots, strict=True):
            assert slots.tolist() == list(range(len(people)))


def test_a_file_without_slots_is_no_obstacle():
    _, embeddings, weights, likes = planted(num_speakers=6, num_files=12, num_slots=4)
    nothing = torch.zeros(0, embeddings[0].shape[1])
    none = torch.tensor([]).long()
    before = shared_prototypes(embeddings, weights, likes, 6)
    after = shared_prototypes([*embeddings, nothing], [*weights, nothing[:, 0]], [*likes, none], 6)
    torch.testing.assert_close(after.vectors, before.vectors)


def test_chance_can_have_a_least():
    _, embeddings, weights, likes = planted(num_speakers=6, num_files=12, num_slots=4)
    found = shared_prototypes(embeddings, weights, likes, 6, least=0.999)
    assert found.by_chance == 0.999 and not torch.cat(found.confirmed).any()


def test_without_likes_nothing_is_missing():
    _, embeddings, weights, likes = planted(num_files=5)
    nothing = [torch.tensor([], dtype=torch.long)] * 5
    _, missing, _ = complete_likes(embeddings, weights, nothing, num_speakers=3)
    assert [found.tolist() for found in missing] == [[]] * 5


def test_explained_speech_against_a_loop():
    """Three of four who speak are liked, or one of four; noise is nobody's."""
    shares = []
    for liked in (3, 2, 1):
        _, embeddings, weights, likes = planted(liked=liked, num_files=80)
        likes[5] = likes[5][:0]
        prototypes = shared_prototypes(embeddings, weights, likes, num_speakers=8)
        share = explained_speech(embeddings, weights, likes, prototypes)
        total = 0.0
        for slots, weight, known, believed in zip(
            embeddings, weights, likes, prototypes.confirmed, strict=True
        ):
            for slot, w in zip(slots, weight, strict=True):
                near = [
                    F.cosine_similarity(slot, prototypes.vectors[k], dim=0).item()
                    for k, sure in zip(known.tolist(), believed.tolist(), strict=True)
                    if sure
                ]
                total += w.item() * (max(near, default=-1.0) > prototypes.by_chance)
        assert share == pytest.approx(total / len(likes), abs=1e-5)
        assert share == pytest.approx(79 / 80 * liked / 4, abs=0.1)
        shares.append(share)
    assert shares == sorted(shares, reverse=True)


def test_silence_needs_no_explanation():
    _, embeddings, weights, likes = planted(num_files=10)
    prototypes = shared_prototypes(embeddings, weights, likes, num_speakers=8)
    before = explained_speech(embeddings, weights, likes, prototypes)
    silent = explained_speech(
        [*embeddings, embeddings[0]],
        [*weights, 0 * weights[0]],
        [*likes, likes[0]],
        prototypes._replace(confirmed=[*prototypes.confirmed, prototypes.confirmed[0]]),
    )
    assert silent == before
    nothing = prototypes._replace(confirmed=[])
    assert explained_speech([], [], [], nothing) == 1.0


def test_who_is_always_liked_does_not_explain_the_others():
    """Two hosts who are tagged in all files, and guests who never are: half of the speech."""
    generator = torch.Generator().manual_seed(0)
    hosts = F.normalize(torch.randn(2, 64, generator=generator), dim=-1)
    embeddings = [
        torch.cat([hosts, F.normalize(torch.randn(2, 64, generator=generator), dim=-1)])
        for _ in range(40)
    ]
    weights = [torch.full((4,), 0.25)] * 40
    likes = [torch.tensor([0, 1])] * 40
    prototypes = shared_prototypes(embeddings, weights, likes, num_speakers=2)
    assert all(sure.all() for sure in prototypes.confirmed)
    share = explained_speech(embeddings, weights, likes, prototypes)
    assert share == pytest.approx(0.5, abs=0.05)
