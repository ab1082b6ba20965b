"""What a training from likes begins with."""

import pytest
import torch

from pyannote_weighter.prototypes import complete_likes, explained_speech, shared_prototypes
from pyannote_weighter.tasks.start import find_start
from tests.test_prototypes import planted, thinned


@pytest.mark.parametrize("complete", [True, False])
def test_start_of_a_training(complete):
    _, embeddings, weights, likes = planted(num_speakers=20, num_files=80, num_slots=10)
    given, _ = thinned(likes)
    known = embeddings, weights, given, 20
    most = [1.0] * len(given)
    start = find_start(*known, most, complete)
    if complete:
        prototypes, missing, every = complete_likes(*known, most)
    else:
        prototypes, missing, every = shared_prototypes(*known), [], given
    assert torch.equal(start.prototypes.vectors, prototypes.vectors)
    assert torch.cat(start.missing).tolist() == [k for who in missing for k in who.tolist()]
    assert len(start.missing) == len(given) and start.missing[0].dtype == torch.long
    assert start.explained == explained_speech(embeddings, weights, every, prototypes)


def test_more_is_explained_by_likes_that_are_found():
    _, embeddings, weights, likes = planted(num_speakers=20, num_files=80, num_slots=10)
    known = embeddings, weights, thinned(likes)[0], 20
    assert find_start(*known).explained > find_start(*known, complete=False).explained
