import importlib.metadata
import json
import re
from collections import Counter

import numpy as np
import pytest
import soundfile
from pyannote.database import custom, registry

from pyannote_weighter.database import LikesLoader, read_likes
from pyannote_weighter.simulation import SAMPLE_RATE, Acoustics, write_corpus

SHORT = {"duration": (12.0, 16.0), "speakers": (2, 4)}


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, tones, turns):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, tones, turns, 8, seed=1, **SHORT)
    return folder


def test_files(corpus):
    uris = (corpus / "train.lst").read_text().split()
    assert uris == [f"train-{index:04d}" for index in range(8)]
    assert not [name for name in contents(corpus) if name.endswith(".part")]
    for uri in uris:
        info = soundfile.info(corpus / "train" / f"{uri}.flac")
        assert (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 1, "PCM_16")
        assert 12.0 <= info.duration <= 16.0


def test_pyannote_reads_it(corpus, monkeypatch):
    if ".likes" not in custom.LOADERS:
        value = f"{LikesLoader.__module__}:LikesLoader"
        entry = importlib.metadata.EntryPoint(".likes", value, "pyannote.database.loader")
        monkeypatch.setitem(custom.LOADERS, ".likes", entry)
    registry.load_database(corpus / "database.yml")
    protocol = registry.get_protocol("Simulated.SpeakerDiarization.Conversations")
    files = list(protocol.train())
    assert len(files) == 8
    for file in files:
        assert file["scope"] == "global"
        assert sorted(file["likes"]) == sorted(file["annotation"].labels())
        assert 2 <= len(file["likes"]) <= 4
        end = file["annotated"].extent().end
        assert end == pytest.approx(
            soundfile.info(corpus / "train" / f"{file['uri']}.flac").duration, abs=1e-3
        )
        assert file["annotation"].get_timeline().extent().end <= end + 1e-6


def test_bytes_do_not_depend_on_the_number_of_processes(corpus, tmp_path, tones, turns):
    write_corpus(tmp_path, tones, turns, 8, seed=1, processes=2, **SHORT)
    assert contents(tmp_path) == contents(corpus)


def test_another_seed_and_subset_give_other_conversations(corpus, tmp_path, tones, turns):
    write_corpus(tmp_path / "a", tones, turns, 2, seed=2, **SHORT)
    write_corpus(tmp_path / "b", tones, turns, 2, seed=1, subset="test", **SHORT)
    first = (corpus / "train" / "train-0000.flac").read_bytes()
    assert (tmp_path / "a" / "train" / "train-0000.flac").read_bytes() != first
    assert (tmp_path / "b" / "test" / "test-0000.flac").read_bytes() != first


def test_resumes_and_grows(corpus, tmp_path, tones, turns):
    write_corpus(tmp_path, tones, turns, 4, seed=1, **SHORT)
    folder = tmp_path / "train"
    (folder / "train-0002.flac").unlink()
    kept = folder / "train-0001.flac"
    kept.write_bytes(kept.read_bytes())
    before = kept.stat().st_mtime_ns
    write_corpus(tmp_path, tones, turns, 8, seed=1, **SHORT)
    assert contents(tmp_path) == contents(corpus)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"seed": 2}, "seed"),
        ({"duration": (12.0, 15.0)}, "duration"),
        ({"acoustics": Acoustics(gain=1.0)}, "acoustics"),
    ],
)
def test_other_settings_are_refused(corpus, tones, turns, changes, names):
    with pytest.raises(ValueError, match=f"train.json.*another {names}"):
        write_corpus(corpus, tones, turns, 8, **{"seed": 1, **SHORT, **changes})
    assert json.loads((corpus / "train.json").read_text())["seed"] == 1


def test_corpora_in_another_order_are_refused(tmp_path, tones, turns):
    """Whose turn it is depends on it, so that likes would be those of others."""
    names = sorted(tones)
    corpora = {"a": {n: tones[n] for n in names[:3]}, "b": {n: tones[n] for n in names[3:]}}
    options = {"duration": (12.0, 16.0), "speakers": (2, 2)}
    write_corpus(tmp_path, corpora, turns, 3, seed=1, **options)
    before = contents(tmp_path)
    other = dict(reversed(corpora.items()))
    with pytest.raises(ValueError, match=r"train.json.*another corpora"):
        write_corpus(tmp_path, other, turns, 3, seed=1, **options)
    settings = json.loads((tmp_path / "train.json").read_text())
    del settings["corpora"]  # as of earlier versions
    (tmp_path / "train.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="another corpora"):
        write_corpus(tmp_path, other, turns, 3, seed=1, **options)
    write_corpus(tmp_path, corpora, turns, 3, seed=1, **options)
    assert contents(tmp_path) == before


def test_what_was_refused_can_be_corrected(tmp_path, tones, turns):
    with pytest.raises(ValueError, match="too few"):
        write_corpus(tmp_path, tones, turns, 1, seed=1, duration=(12.0, 16.0), speakers=(2, 60))
    with pytest.raises(ValueError, match="no excerpt"):
        write_corpus(tmp_path, tones, turns, 1, seed=1, duration=(9e4, 9e4), speakers=(2, 4))
    write_corpus(tmp_path, tones, turns, 1, seed=1, **SHORT)


def test_names_that_rttm_cannot_hold_are_refused(tmp_path, tones, turns):
    voices = {f"{name} Lee": paths for name, paths in tones.items()}
    folder = re.escape(str(next(iter(tones.values()))[0].parent))
    with pytest.raises(ValueError, match=f"{folder}: .* has a space in its name"):
        write_corpus(tmp_path, voices, turns, 1, seed=1, **SHORT)


def test_settings_that_were_not_known_then_had_their_default(tmp_path, tones, turns):
    write_corpus(tmp_path, tones, turns, 2, seed=1, **SHORT)
    settings = json.loads((tmp_path / "train.json").read_text())
    del settings["acoustics"]["stay"]
    (tmp_path / "train.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="another acoustics"):
        write_corpus(tmp_path, tones, turns, 3, 1, acoustics=Acoustics(stay=(1.0, 2.0)), **SHORT)
    write_corpus(tmp_path, tones, turns, 3, seed=1, **SHORT)


def test_likes_are_dropped_and_audio_stays(corpus, tones, turns):
    complete = read_likes(corpus / "train.likes")
    audio = (corpus / "train" / "train-0003.flac").stat().st_mtime_ns
    seen = {}
    for share in (0.0, 0.3, 0.7, 1.0):
        write_corpus(corpus, tones, turns, 8, seed=1, likes_kept=share, **SHORT)
        seen[share] = read_likes(corpus / "train.likes")
        assert set(seen[share]) == set(complete)  # every conversation is listed
    assert seen[1.0] == complete
    assert not any(seen[0.0].values())
    assert 0 < sum(map(len, seen[0.3].values())) < sum(map(len, complete.values()))
    for uri in complete:
        assert set(seen[0.3][uri]) <= set(seen[0.7][uri]) <= set(complete[uri])
    assert (corpus / "train" / "train-0003.flac").stat().st_mtime_ns == audio
    with pytest.raises(ValueError, match="likes_kept"):
        write_corpus(corpus, tones, turns, 8, seed=1, likes_kept=1.5, **SHORT)


def test_voices_recur_evenly(corpus):
    counts = Counter(s for likes in read_likes(corpus / "train.likes").values() for s in likes)
    assert len(counts) == 6
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("in_turn", [True, False])
def test_one_corpus_a_conversation(tmp_path, tones, turns, in_turn):
    names = list(tones)
    corpora = {"few": {n: tones[n] for n in names[:2]}, "many": {n: tones[n] for n in names[2:]}}
    write_corpus(
        tmp_path, corpora, turns, 6, 1, duration=(5.0, 8.0), speakers=(2, 2), in_turn=in_turn
    )
    uris = Counter()
    for uri, likes in read_likes(tmp_path / "train.likes").items():
        name = uri.split("-")[1]
        uris[name] += 1
        assert set(likes) <= set(corpora[name])
    assert uris == ({"few": 3, "many": 3} if in_turn else {"few": 2, "many": 4})


def test_short_voices_are_left_out(tmp_path, tones, turns):
    path = tmp_path / "short.wav"
    soundfile.write(path, 0.1 * np.ones(SAMPLE_RATE) * [(-1) ** i for i in range(16000)], 16000)
    voices = {**tones, "short": [path]}
    with pytest.warns(UserWarning, match=r"1 voices .* left out: short \(1.0 s\)"):
        write_corpus(tmp_path / "x", voices, turns, 4, 1, **SHORT)
    likes = read_likes(tmp_path / "x" / "train.likes")
    assert not any("short" in names for names in likes.values())


def test_too_few_voices(tmp_path, tones, turns):
    with pytest.raises(ValueError, match="6 usable voices are too few .* 7 speakers"):
        write_corpus(tmp_path, tones, turns, 4, 1, speakers=(2, 7))
    with pytest.raises(ValueError, match="subset must be one of"):
        write_corpus(tmp_path, tones, turns, 4, 1, subset="dev")
