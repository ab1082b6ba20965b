"""Crops of training files: all of each in every epoch, with the likes of who speaks there."""

import math
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from pyannote_weighter.tasks import crops
from pyannote_weighter.tasks import speaker_likes as module
from pyannote_weighter.tasks.crops import TrainingFiles, cut_pieces
from tests.tasks.conftest import liked


class Recorder(Callback):
    """The files of every training batch, by their first frame."""

    def __init__(self):
        self.batches: list[list[list[float]]] = []

    def on_train_epoch_start(self, trainer, model):
        """Start a list for this epoch."""
        self.batches.append([])

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        """Note the files."""
        self.batches[-1].append(batch["frames"][:, 0].sum(dim=-1).tolist())


@pytest.mark.parametrize(
    ("length", "many"), [(1, 1), (100, 1), (149, 1), (160, 2), (300, 3), (1000, 10)]
)
def test_an_epoch_sees_all_of_a_file_about_once(length, many):
    assert cut_pieces([50, length], 100) == [(0, 0, 1)] + [(1, k, many) for k in range(many)]


@pytest.mark.parametrize(
    "batch_size, num_workers, expected",
    [(2, 0, [2, 2, 1]), (16, 0, [5]), (5, 0, [5]), (2, 2, [2, 1, 2]), (4, 2, [4, 1])],
)
def test_every_file_once_in_every_epoch(task, fit, batch_size, num_workers, expected):
    recorder = Recorder()
    trained = task(batch_size=batch_size, num_workers=num_workers, splice=0.0)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "error", message=".*(Length of IterableDataset|`DataLoader`.*zero).*"
        )
        fit(trained, callbacks=[recorder])
    entries = trained.prepared_data["train"]
    files = sorted(trained.files.read(e, 0, 1)["frames"].sum().item() for e in entries)
    assert len(set(files)) == 5 and len(recorder.batches) == 2
    for batches in recorder.batches:
        assert sorted(map(len, batches)) == sorted(expected)
        assert sorted(sum(batches, [])) == pytest.approx(files, abs=1e-4)


def test_order_changes_with_the_epoch(task, fit, monkeypatch):
    order = []
    load = TrainingFiles.sample

    def recorded(self, first, *others):
        order.append(self.entries[self.pieces[first][0]]["uri"])
        return load(self, first, *others)

    monkeypatch.setattr(TrainingFiles, "sample", recorded)
    fit(task(splice=0.0), max_epochs=3)
    epochs = order[:5], order[5:10], order[10:]
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert all(len(set(epoch)) == 5 for epoch in epochs)


def test_long_files_are_cropped(tones, task, fit):
    lengths = []

    class Lengths(Callback):
        def on_train_batch_start(self, trainer, model, batch, batch_idx):
            lengths.extend(batch["mask"].sum(dim=1).tolist())

    trained = task(duration=0.5, splice=0.0)
    fit(trained, max_epochs=1, callbacks=[Lengths()])
    assert set(lengths) == {round(0.5 / trained.model.frames.step)}
    # as many as there are in the files: of 2, 1.6, 2, 2 and 2 s
    assert len(lengths) == trained.train__len__() * 2 - 1 == 19


class Places:
    """Random numbers that are the middle of what is asked for, which is noted."""

    def __init__(self):
        self.asked = []

    def randint(self, low, high):
        self.asked.append((low, high))
        return (low + high) // 2


def test_parts_of_long_files_have_the_likes_of_who_speaks_there(task, fit, monkeypatch):
    """Of files that are longer than a crop; who is not confirmed may be anywhere."""
    train = [liked(uri, "ann bob cy", seconds=6.0) for uri in ("one", "two", "three")]
    train += [liked("four", "ann", seconds=1.0), liked("five", "bob dee", seconds=1.0)]
    trained = task(train, duration=2.0, splice=0.0, complete=False)
    told = {}

    def speech(overview, likes, slots, prototypes):
        told[tuple(likes.tolist())] = len(overview.until)
        until = torch.zeros(len(overview.until), len(likes))
        for k in range(len(likes)):  # each speaks for two seconds
            until[2 * k + 1 :, k] += 1.0
            until[2 * k + 2 :, k] += 1.0
        return until

    monkeypatch.setattr(crops, "speech_of_likes", speech)
    find = module.find_start
    confirmed = torch.tensor([True, True, False])

    def half_confirmed(*known):
        start = find(*known)
        sure = [confirmed[: len(c)] for c in start.prototypes.confirmed]
        return start._replace(prototypes=start.prototypes._replace(confirmed=sure))

    monkeypatch.setattr(module, "find_start", half_confirmed)
    fit(trained, max_epochs=1)
    assert told == {(0, 1, 2): 7}
    entries = trained.prepared_data["train"]
    assert [("heard" in entry) for entry in entries] == [True] * 3 + [False] * 2
    assert trained.files.pieces == [(f, k, 3) for f in range(3) for k in range(3)] + [
        (3, 0, 1), (4, 0, 1)
    ]  # fmt: skip
    names, places = trained.prepared_data["speakers"], Places()
    found = [trained.files.crop(index, places, sure=True) for index in range(3)]
    told = [[names[k] for k in crop["likes"]] for crop in found]
    step, length = trained.model.frames.step, len(found[0]["frames"])
    starts = [(low + high) // 2 for low, high in places.asked]
    ticks = [(int(first * step), math.ceil((first + length) * step)) for first in starts]
    turns = {"ann": (0, 2), "bob": (2, 4)}
    assert told == [
        [name for name, turn in turns.items() if min(last, turn[1]) > max(first, turn[0])]
        for first, last in ticks
    ]
    assert told[0] == ["ann", "bob"] and told[2] == ["bob"]
    unsure = trained.files.crop(2, Places())
    assert [names[k] for k in unsure["likes"]] == ["bob", "cy"]
    latest = trained.files.lengths[0] - length
    assert places.asked == [(k * latest // 3, (k + 1) * latest // 3) for k in range(3)]
    whole = trained.files.crop(9, places)
    assert len(whole["likes"]) == 1 and places.asked[-1] == (0, 0)

    cropped, crop = [], trained.files.crop

    def recorded(piece, rng, sure=False):
        cropped.append((piece, sure))
        return crop(piece, rng, sure)

    monkeypatch.setattr(trained.files, "crop", recorded)
    alone, spliced = trained.files.sample(2, -1, (0, 0)), trained.files.sample(2, 9, (0, 0))
    assert cropped == [(2, False), (2, True), (9, True)]
    assert len(spliced["frames"]) == len(alone["frames"]) + len(whole["frames"])


def test_losses_that_keep_labels_of_files_keep_their_likes(task, fit):
    train = [liked(uri, "ann bob cy", seconds=6.0) for uri in ("one", "two", "three")]
    trained = task(train, duration=2.0, loss="role")
    fit(trained, max_epochs=1)
    assert not any("heard" in entry for entry in trained.prepared_data["train"])


@pytest.mark.parametrize("most, expected", [(1, [0]), (3, [0, 2, 4]), (9, [0, 1, 2, 3, 4])])
def test_samples_lie_evenly_in_the_list(task, fit, monkeypatch, most, expected):
    trained, seconds = task(), []
    fit(trained, max_epochs=1)
    count = trained.files.frames_in

    def fewer(some):
        seconds.append(some)
        return count(some) // 1000

    monkeypatch.setattr(trained.files, "frames_in", fewer)
    samples = list(trained.training_samples(most))
    assert [len(sample["frames"]) for sample in samples] == [count(600.0) // 1000] * len(expected)
    assert seconds == [600.0] * len(expected)
    every = trained.prepared_data["train"]
    for sample, index in zip(samples, expected, strict=True):
        frames = trained.frame_cache.get(every[index]["frames"])[0]
        assert torch.equal(sample["frames"], torch.from_numpy(frames[: len(sample["frames"])]))
