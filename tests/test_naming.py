"""Names from likes, on voices that are made up."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pyannote_weighter.naming import STRANGERS, Speakers, Voices, learn_voices

DIMENSION = 64
PEOPLE = [f"person {number}" for number in range(12)]


def voice(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(DIMENSION)


def archive(num_files: int = 30, size: int = 4, noise: float = 0.4, seed: int = 0):
    """Files and who is in them: the k-th label of a file is the k-th of its people."""
    rng = np.random.default_rng(seed)
    files, present = [], []
    for _ in range(num_files):
        people = rng.choice(len(PEOPLE), size, replace=False)
        embeddings = [voice(p) + noise * rng.standard_normal(DIMENSION) for p in people]
        labels = [f"SPEAKER_{k:02d}" for k in range(size)]
        files.append(Speakers(labels, np.float32(embeddings), rng.uniform(5, 60, size)))
        present.append([PEOPLE[p] for p in people])
    return files, present


def right_names(speakers: Speakers, people: list[str]) -> dict[str, str]:
    return dict(zip(speakers.labels, people, strict=True))


def test_likes_of_some_files_name_speakers_in_all_of_them():
    files, present = archive()
    likes = [sorted(people) if number < 20 else None for number, people in enumerate(present)]
    named = learn_voices(files, likes)
    assert named.voices.names == tuple(sorted(PEOPLE)) and not named.unclear
    for number, (speakers, people) in enumerate(zip(files, present, strict=True)):
        found = {label: match.name for label, match in named.matches[number].items()}
        assert found == right_names(speakers, people)
        assert all(match.liked == (number < 20) for match in named.matches[number].values())
        assert all(match.cosine > 0.7 for match in named.matches[number].values())


def test_who_is_there_without_a_like_is_found():
    files, present = archive()
    likes = [people[1:] if number % 3 == 0 else people for number, people in enumerate(present)]
    named = learn_voices(files, likes)
    for number, (speakers, people) in enumerate(zip(files, present, strict=True)):
        found = {label: match.name for label, match in named.matches[number].items()}
        assert found == right_names(speakers, people)
        without = number % 3 == 0
        assert named.matches[number]["SPEAKER_00"].liked != without


def test_strangers_get_no_name():
    files, present = archive()
    named = learn_voices(files, present)
    rng = np.random.default_rng(999)
    strangers = np.float32(rng.standard_normal((3, DIMENSION)))
    known = np.float32(voice(5))
    mixed = Speakers(["a", "b", "c", "d"], np.vstack([strangers, known]), np.full(4, 9.0))
    assert {k: m.name for k, m in named.voices.recognize(mixed).items()} == {"d": PEOPLE[5]}


def test_of_two_speakers_the_nearer_one_gets_the_name():
    files, present = archive()
    voices = learn_voices(files, present).voices
    rng = np.random.default_rng(3)
    near, far = (voice(2) + noise * rng.standard_normal(DIMENSION) for noise in (0.1, 0.7))
    both = Speakers(["far", "near"], np.float32([far, near]), np.full(2, 9.0))
    assert list(voices.recognize(both)) == ["near"]


def test_who_is_liked_once_has_no_voice():
    files, present = archive()
    likes = [[n for n in people if n != PEOPLE[0]] for people in present]
    first = next(number for number, people in enumerate(present) if PEOPLE[0] in people)
    likes[first] = present[first]
    named = learn_voices(files, likes)
    assert PEOPLE[0] not in named.voices.names
    assert len(named.voices.names) == len(PEOPLE) - 1


def test_a_name_without_a_voice_gets_none_however_few_names_there_are():
    """Six files in which nobody recurs, and one name for all of them."""
    rng = np.random.default_rng(5)
    for number in (2, 4, 6):
        files = [
            Speakers(list("abc"), np.float32(rng.standard_normal((3, DIMENSION))), np.ones(3))
            for _ in range(number)
        ]
        named = learn_voices(files, [["ghost"]] * number)
        assert named.voices.names == () and named.doubtful == ["ghost"]
        assert not any(named.matches)


def test_of_equal_speakers_one_gets_the_name():
    files, present = archive()
    voices = learn_voices(files, present).voices
    twins = Speakers(["a", "b"], np.float32([voice(2), voice(2)]), np.ones(2))
    assert list(voices.recognize(twins)) == ["a"]


def test_names_in_the_same_files_are_not_told_apart():
    files, present = archive()
    # two names of one person, and so of nobody
    likes = [people + (["the other"] if PEOPLE[3] in people else []) for people in present]
    named = learn_voices(files, likes)
    assert named.unclear == [(PEOPLE[3], "the other")]
    given = {match.name for found in named.matches for match in found.values()}
    assert not given & {PEOPLE[3], "the other"} and PEOPLE[4] in given


def test_one_voice_for_two_names_is_nobodys():
    """Where A has likes, B is there too and has none; elsewhere it is B who has them."""
    files, present = archive(num_files=60)
    a, b = PEOPLE[0], PEOPLE[1]
    likes = []
    for people in present:
        both = a in people and b in people
        likes.append([n for n in people if n not in (a, b) or (n == a if both else n == b)])
    named = learn_voices(files, likes)
    wrong = [
        match.name
        for speakers, people, found in zip(files, present, named.matches, strict=True)
        for label, match in found.items()
        if right_names(speakers, people)[label] != match.name
    ]
    assert wrong == []


def test_files_without_speakers_or_without_likes_are_no_obstacle():
    files, present = archive()
    nobody = Speakers([], np.zeros((0, DIMENSION), np.float32), np.zeros(0))
    named = learn_voices([*files, nobody, nobody, files[0]], [*present, ["ghost"], None, []])
    assert named.matches[-2] == named.matches[-3] == {}
    # listened to, and nobody tagged: who is known is found
    assert {m.name for m in named.matches[-1].values()} == set(present[0])
    assert not any(match.liked for match in named.matches[-1].values())


def test_more_likes_than_speakers():
    files, present = archive()
    likes = [[*people, *(n for n in PEOPLE if n not in people)] for people in present]
    named = learn_voices(files, likes)  # everybody everywhere: nothing is told
    assert named.voices.names == () and len(named.unclear) == 1
    assert not any(named.matches)


def test_everybody_in_every_file_leaves_the_usual_bound():
    files, present = archive(num_files=4, size=1)
    files = [f._replace(embeddings=files[0].embeddings) for f in files]
    named = learn_voices(files, [["only"]] * 4)
    assert named.voices.by_chance == STRANGERS and named.voices.num_files == (4,)
    stranger = Speakers(["x"], np.float32(voice(77))[None], np.ones(1))
    assert named.voices.recognize(stranger) == {}
    assert named.voices.recognize(files[0])[files[0].labels[0]].name == "only"


@pytest.mark.parametrize("likes", [[None] * 3, [[], [], []], [["a"], ["b"], None]])
def test_nothing_to_learn_is_said(likes):
    files, _ = archive(num_files=3)
    with pytest.raises(ValueError, match="liked in two"):
        learn_voices(files, likes)


def test_no_files_at_all():
    with pytest.raises(ValueError, match="liked in two"):
        learn_voices([], [])


def test_embeddings_of_two_weighters_are_refused():
    files, present = archive()
    other = Speakers(["x"], np.ones((1, 8), np.float32), np.ones(1))
    voices = learn_voices(files, present).voices
    with pytest.raises(ValueError, match="8 dimensions, voices of 64"):
        voices.recognize(other)
    with pytest.raises(ValueError, match="one pipeline"):
        learn_voices([*files, other], [*present, [PEOPLE[0]]])


def test_voices_of_any_precision_recognize():
    for kind in (np.float64, np.float32):
        voices = Voices(("a", "b"), np.eye(2, dtype=kind), 0.3, (2, 2))
        (match,) = voices.recognize(Speakers(["s"], np.eye(2)[:1], np.ones(1))).values()
        assert match.name == "a"


def test_voices_are_read_as_they_were_written(tmp_path):
    files, present = archive()
    voices = learn_voices(files, present).voices
    path = tmp_path / "new" / "voices.safetensors"
    voices.save(path)
    found = Voices.load(path)
    assert (found.names, found.by_chance, found.num_files) == (
        voices.names,
        voices.by_chance,
        voices.num_files,
    )
    np.testing.assert_array_equal(found.vectors, voices.vectors)
    assert [p.name for p in path.parent.iterdir()] == ["voices.safetensors"]


def test_what_are_no_voices_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file of voices"):
        Voices.load(tmp_path / "none")
    path = tmp_path / "text"
    path.write_text("hello")
    with pytest.raises(ValueError, match="no file of voices"):
        Voices.load(path)
    save_file({"vectors": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no file of voices"):
        Voices.load(path)


def test_voices_stay_as_they_were_read(tmp_path):
    path = tmp_path / "voices.safetensors"
    Voices(("a",), np.float32([[1, 0]]), 0.5, (2,)).save(path)
    voices, content = Voices.load(path), path.read_bytes()
    with path.open("r+b") as file:
        file.write(content.replace(np.float32([1, 0]).tobytes(), np.float32([0, 1]).tobytes()))
    np.testing.assert_array_equal(Voices.load(path).vectors, [[0, 1]])
    np.testing.assert_array_equal(voices.vectors, [[1, 0]])


def test_voices_of_less_precision_and_none_at_all_are_read(tmp_path):
    path = tmp_path / "voices.safetensors"
    about = {"names": ["a"], "num_files": [2], "by_chance": 0.5}
    unit = torch.nn.functional.normalize(torch.from_numpy(voice(0)), dim=0)[None]
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        save_file({"vectors": unit.to(kind)}, path, metadata={"voices": json.dumps(about)})
        assert Voices.load(path).vectors.dtype == np.float32
    replace(Voices.load(path), names=(), vectors=np.float32(unit[:0]), num_files=()).save(path)
    assert Voices.load(path).names == ()


@pytest.mark.parametrize(
    "change",
    [{"names": ["a"]}, {"names": ["a", "b", "c"]}, {"names": "ab"}, {"names": None},
     {"names": ["a", 2]}, {"names": ["a", "a"]}, {"names": ["a", "\ud800"]},
     {"num_files": [2]}, {"num_files": "22"}, {"num_files": None},
     {"by_chance": float("nan")}, {"by_chance": "high"}, {"by_chance": None},
     {"by_chance": 10**400}, {"embedding_id": 5}, {"embedding_id": ["x"]},
     {"vectors": torch.ones(2)}, {"vectors": torch.tensor(1.0)}, {"vectors": torch.eye(2).long()},
     {"vectors": 2 * torch.eye(2)}, {"vectors": torch.full((2, 2), torch.nan)},
     {"vectors": torch.eye(3)}],
)  # fmt: skip
def test_voices_that_do_not_fit_together_are_refused(tmp_path, change):
    path = tmp_path / "voices.safetensors"
    about = {"names": ["a", "b"], "num_files": [2, 2], "by_chance": 0.5, "embedding_id": None}

    save_file({"vectors": torch.eye(2)}, path, metadata={"voices": json.dumps(about)})
    assert Voices.load(path).names == ("a", "b")
    vectors = change.get("vectors", torch.eye(2))
    about |= {key: value for key, value in change.items() if key != "vectors"}
    save_file({"vectors": vectors}, path, metadata={"voices": json.dumps(about)})
    with pytest.raises(ValueError, match=r"voices\.safetensors: no file of voices, as `name`"):
        Voices.load(path)


@pytest.mark.parametrize("about", ["3", "[]", "x", "[" * 100_000])
def test_what_is_told_of_voices_is_no_object(tmp_path, about):
    path = tmp_path / "voices.safetensors"
    save_file({"vectors": torch.eye(2)}, path, metadata={"voices": about})
    with pytest.raises(ValueError, match="no file of voices, as `name`"):
        Voices.load(path)
