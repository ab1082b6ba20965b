"""Every loss of likes by name: it learns, and keeps what it must from epoch to epoch."""

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import NormalizedSoftmaxLoss

from pyannote_weighter.losses import LOSSES, RECORDING, any_slot, like_matrix
from pyannote_weighter.models import Weighter
from pyannote_weighter.tasks.objective import FIRST_LAMBDA, LikesObjective, known_losses
from pyannote_weighter.tasks.samples import collate, crop_reference

FILES, SLOTS, SPEAKERS, DIMENSION = 24, 5, 6, 12
CHOICES = [
    *({"name": name, "prior": 0.1} if name == "nnpu" else name for name in LOSSES),
    "softmax",
    *RECORDING,
]


class Toy(torch.nn.Module):
    """Slots with two voices and three of noise; confidence and classifier are to be learned."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        voices = F.normalize(torch.randn(SPEAKERS, DIMENSION, generator=generator), dim=-1)
        there = torch.rand(FILES, SPEAKERS, generator=generator).argsort(dim=1)[:, :2]
        noise = 0.05 * torch.randn(FILES, SLOTS, DIMENSION, generator=generator)
        self.slots = noise + F.pad(voices[there], (0, 0, 0, SLOTS - 2))
        self.slots = F.pad(self.slots, (0, 1), value=1.0)
        self.likes = list(there)
        weight = 0.3 * torch.randn(SPEAKERS + 1, DIMENSION + 1, generator=generator)
        self.weight = torch.nn.Parameter(weight)

    def forward(self):
        """Confidence (file, slot) and log posteriors (file, slot, speaker)."""
        values = self.slots @ self.weight.T
        return torch.sigmoid(values[..., 0]), (4 * values[..., 1:]).log_softmax(dim=-1)

    def margin(self) -> float:
        """Mean claim of who is liked above that of who is not."""
        with torch.no_grad():
            claims, y = any_slot(*self()), like_matrix(self.likes, SPEAKERS).bool()
            return (claims[y].mean() - claims[~y].mean()).item()


def learn(toy: Toy, objective: LikesObjective, epochs: int = 12) -> list[float]:
    """Loss of each epoch, which is one step."""
    objective.prepare(toy.likes, SPEAKERS, epochs)
    parameters = [*toy.parameters(), *objective.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    files = [[number] for number in range(FILES)]
    losses = []
    for epoch in range(epochs):
        objective.set_epoch(epoch)
        confidence, log_p = toy()
        values, logs = objective([confidence * 0.9, confidence], [log_p] * 2, toy.likes, files)
        assert values.shape == (2,) and torch.isfinite(values).all()
        assert all(isinstance(value, float) for value in logs.values())
        optimizer.zero_grad()
        values.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in parameters)
        assert (toy.weight.grad != 0).any()
        optimizer.step()
        losses.append(values[-1].item())
    return losses


@pytest.mark.parametrize("loss", CHOICES, ids=str)
def test_every_loss_learns(loss):
    toy = Toy()
    before = toy.margin()
    price = {} if loss in list(RECORDING) else {"lambda_": 0.5}
    losses = learn(toy, LikesObjective(loss, **price))
    assert toy.margin() > before + 0.2
    if loss not in ("splc", "pseudo_labels"):  # which change on the way
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("loss", ["wbce", "softmax", "bce"])
def test_soft_assignment_learns(loss):
    toy = Toy()
    before = toy.margin()
    learn(toy, LikesObjective(loss, assignment="sinkhorn"))
    assert toy.margin() > before + 0.2


def test_options_reach_the_loss():
    toy = Toy()
    values = {}
    for gamma in (0.0, 2.0):
        objective = LikesObjective({"name": "focal", "gamma": gamma})
        confidence, log_p = toy()
        values[gamma] = objective([confidence], [log_p], toy.likes, [[0]] * FILES)[0].item()
    assert values[0.0] > values[2.0] > 0
    bce = LikesObjective("bce")([confidence], [log_p], toy.likes, [[0]] * FILES)[0].item()
    assert values[0.0] == pytest.approx(bce)


def test_corrections_wait_for_the_second_epoch():
    objective = LikesObjective("splc")
    assert objective.criterion.elementwise.epoch == 0
    objective.set_epoch(3)
    assert objective.criterion.elementwise.epoch == 3


def test_pseudo_labels_come_after_the_warm_up_and_are_kept():
    toy, objective = Toy(), LikesObjective({"name": "pseudo_labels", "warm_up": 3, "share": 0.9})
    with pytest.raises(ValueError, match="warm_up is 3: choose fewer than the 3 epochs"):
        objective.prepare(toy.likes, SPEAKERS, 3)
    learn(toy, objective, epochs=4)
    assert objective.criterion.claims.isfinite().all()
    labels = objective.criterion.labels.labels
    assert labels.isfinite().any()  # of the fourth epoch
    labels.fill_(torch.nan)
    objective.criterion.epoch.zero_()
    objective.set_epoch(2)
    assert not labels.isfinite().any()  # still in the warm-up
    objective = LikesObjective({"name": "pseudo_labels", "warm_up": 1, "share": 0.9})
    learn(toy, objective, epochs=4)
    labels = objective.criterion.labels.labels
    labelled = labels.isfinite()
    assert labelled.sum() > 0.5 * FILES * 4 and not labelled[like_matrix(toy.likes, 6) == 1].any()
    again = LikesObjective({"name": "pseudo_labels", "warm_up": 1})
    again.prepare(toy.likes, SPEAKERS, 4)
    again.load_state_dict(objective.state_dict())
    assert torch.equal(again.criterion.labels.labels.isfinite(), labelled)


def test_files_without_known_likes_are_left_out():
    toy = Toy()
    likes = [x if i < 12 else None for i, x in enumerate(toy.likes)]
    files = [[i] for i in range(FILES)]
    for loss in CHOICES:
        objective = LikesObjective(loss)
        objective.prepare(likes, SPEAKERS, 4)
        confidence, log_p = toy()
        (value,), _ = objective([confidence], [log_p], likes, files)
        (known,), _ = objective([confidence[:12]], [log_p[:12]], likes[:12], files[:12])
        assert value.item() == pytest.approx(known.item(), rel=1e-5), loss
        (nothing,), _ = objective([confidence], [log_p], [None] * FILES, files)
        nothing.backward()
        assert nothing.item() == 0.0


def test_price_from_data():
    """With complete tags the price becomes 1, with half of them about a half."""
    for kept, low, high in ((2, 0.85, 1.0), (1, 0.3, 0.7)):
        toy = Toy()
        toy.likes = [x[:kept] for x in toy.likes]
        objective = LikesObjective(lambda_="auto")
        assert objective.criterion.lambda_ == FIRST_LAMBDA
        learn(toy, objective, epochs=40)
        assert low <= objective.criterion.lambda_ <= high
        again = LikesObjective(lambda_="auto")
        again.load_state_dict(objective.state_dict())
        again.set_epoch(39)
        assert again.criterion.lambda_ == objective.criterion.lambda_


def test_wrong_likes_are_not_believed():
    toy = Toy()
    right = [x.clone() for x in toy.likes]
    for i in range(0, FILES, 5):
        absent = next(k for k in range(SPEAKERS) if k not in right[i])
        toy.likes[i] = torch.tensor([int(right[i][0]), absent])
    objective = LikesObjective(wrong_likes=5 / (2 * FILES))
    learn(toy, objective, epochs=10)
    believed = objective.believed(toy.likes, [[i] for i in range(FILES)])
    left_out = [i for i in range(FILES) if len(believed[i]) < 2]
    assert len(set(left_out) & set(range(0, FILES, 5))) >= 3
    assert "trust.cost" in objective.state_dict()
    assert not LikesObjective().state_dict()  # by default checkpoints are as they were


def test_believed_are_those_that_are_confirmed_too():
    toy, files = Toy(), [[number] for number in range(FILES)]
    confirmed = [torch.tensor([number % 4 > 0, True]) for number in range(FILES)]
    objective = LikesObjective()
    objective.prepare(toy.likes, SPEAKERS, 4, confirmed)
    confidence, log_p = toy()
    _, logs = objective([confidence], [log_p], toy.likes, files)
    assert logs["believed"] == pytest.approx(7 / 8)
    objective.prepare([None] * FILES, SPEAKERS, 4, [None] * FILES)
    _, logs = objective([confidence], [log_p], [None] * FILES, files)
    assert logs["believed"] == 1.0


@pytest.mark.parametrize("loss", CHOICES, ids=str)
def test_likes_that_are_not_believed_teach_nothing(loss):
    """The classifier learns as if the file were not tagged with them."""
    likes, rest = [torch.tensor([0, 1])] * 2, [torch.tensor([0])] * 2
    gradients, tagged = [], []
    for given, confirmed in ((likes, [torch.tensor([True, False])] * 2), (rest, None)):
        objective = LikesObjective(loss)
        torch.manual_seed(0)  # of the labels that ROLE begins with
        objective.prepare(given, 3, 10, confirmed)
        confidence = torch.tensor([[0.5, 0.4, 0.3, 0.2]] * 2)
        log_p = torch.zeros(2, 4, 3, requires_grad=True)
        values, _ = objective([confidence], [log_p.log_softmax(dim=-1)], given, [[0], [1]])
        values.sum().backward()
        gradients.append(log_p.grad)
        if loss == "pseudo_labels":  # may label what is not tagged
            tagged.append(objective.criterion.tagged)
    torch.testing.assert_close(*gradients)
    assert all(kept.tolist() == [[True, False, False]] * 2 for kept in tagged)


def test_labels_wait_for_likes_and_for_a_number_of_epochs():
    for loss in RECORDING:
        objective = LikesObjective(loss)
        objective.set_epoch(1)  # references alone: nothing was prepared
        objective.check_epochs(1)
        if loss == "pseudo_labels":
            with pytest.raises(ValueError, match="has to know how many .*: give max_epochs"):
                objective.check_epochs(-1)
            with pytest.raises(ValueError, match="has to know how many .*: give max_epochs"):
                objective.prepare([torch.tensor([0])], 2, -1)
        else:
            objective.check_epochs(-1)
            objective.prepare([torch.tensor([0])], 2, -1)
    objective = LikesObjective({"name": "pseudo_labels", "warm_up": 3})
    with pytest.raises(ValueError, match="warm_up is 3: choose fewer than the 2 epochs"):
        objective.check_epochs(2)
    objective.check_epochs(4)


def test_nothing_of_one_training_is_in_the_next():
    toy, objective = Toy(), LikesObjective(lambda_="auto", wrong_likes=0.1)
    learn(toy, objective, epochs=5)
    assert objective.criterion.lambda_ != FIRST_LAMBDA
    objective.prepare(toy.likes, SPEAKERS, 5)
    fresh = LikesObjective(lambda_="auto", wrong_likes=0.1)
    fresh.prepare(toy.likes, SPEAKERS, 5)
    assert objective.criterion.lambda_ == FIRST_LAMBDA
    for name, value in fresh.state_dict().items():
        torch.testing.assert_close(objective.state_dict()[name], value, equal_nan=True)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss": "cosine"}, "unknown loss 'cosine': choose one of wbce, bce"),
        ({"loss": {"name": "focal", "beta": 1}}, "unknown option 'beta'"),
        (
            {"loss": {"name": "role", "share": 1}},
            "no option share: it has expected, start, weight",
        ),
        ({"loss": {"name": "softmax", "gamma": 1}}, "'softmax' has no option gamma"),
        ({"loss": "nnpu"}, "'nnpu': NNPU needs 'prior'"),
        ({"loss": "role", "assignment": "sinkhorn"}, "leave assignment out"),
        ({"assignment": "greedy"}, "unknown assignment 'greedy'"),
        ({"lambda_": "automatic"}, "choose a price of at least 0, or auto"),
        ({"lambda_": -1.0}, "at least 0"),
        ({"wrong_likes": 0.6}, "under 0.5"),
        ({"lambda_": None}, "lambda_ is None: choose a price of at least 0, or auto"),
        ({"lambda_": True}, "lambda_ is True: choose a price of at least 0, or auto"),
        ({"lambda_": float("nan")}, "lambda_ is nan: choose a finite price of at least 0"),
        ({"loss": "role", "lambda_": 0.5}, "loss 'role' has no price: leave lambda_ out"),
        ({"loss": "recording_kl", "lambda_": 0}, "'recording_kl' has no price: leave lambda_"),
        ({"loss": "pseudo_labels", "lambda_": "auto"}, "'pseudo_labels' has no price"),
        ({"loss": None}, "unknown loss None: choose one of wbce"),
        ({"loss": {"name": ["wbce"]}}, r"unknown loss \['wbce'\]: choose one of wbce"),
        ({"loss": {"name": "nnpu", "prior": 2}}, "loss 'nnpu': .*prior is 2: give the share"),
        ({"loss": {"name": "nnpu", "prior": 0.1, "surrogate": "x"}}, "unknown surrogate 'x'"),
        ({"loss": {"name": "pseudo_labels", "warm_up": -1}}, "warm_up is -1: choose a whole"),
        ({"loss": {"name": "pseudo_labels", "share": "0.9"}}, "loss 'pseudo_labels': "),
        ({"loss": {"name": "role", "start": 1}}, "start is 1: choose a number from 1e-6"),
        ({"loss": {"name": "role", "expected": "5"}}, "expected is '5': choose a number"),
        ({"loss": {"name": "role", "weight": "1"}}, "loss 'role': "),
        ({"loss": {"name": "role", "expected": float("nan")}}, "loss 'role': expected is nan"),
    ],
)
def test_refused_before_any_work(options, message):
    with pytest.raises(ValueError, match=message):
        LikesObjective(**options)


def test_likes_teach_where_a_reference_says_nothing():
    """A crop outside of what is annotated is aligned as if there were no reference."""
    torch.manual_seed(0)
    model = Weighter({"name": "campplus", "pretrained": False})
    frames = torch.randn(1000, model.backbone.frame_dimension)
    with torch.no_grad():
        weighed = model.weigh(frames[None], count=torch.ones(1, 1000))
        windows = model.project(weighed.encoded.windows)[0]  # (S, D)
        voices = torch.stack([windows[:50].mean(dim=0), windows[100:150].mean(dim=0)])
        model.loss_func = NormalizedSoftmaxLoss(2, model.hparams.dimension)
        model.loss_func.W.copy_(voices.T)
    objective = LikesObjective()
    objective.prepare([torch.arange(2)], 2, 1, [torch.ones(2, dtype=torch.bool)])

    def losses(turns, annotated, start=0):
        entry = {"turns": turns, "annotated": annotated}
        sample = {"frames": frames, "count": torch.ones(1000), "file": [0], "num_speakers": None}
        sample |= {"likes": torch.arange(2)} | crop_reference(entry, model.frames, start, 1000)
        batch = collate([sample])
        found, _ = known_losses(model, weighed.encoded, batch, objective, 10.0, 10.0)
        return {name: value[-1].item() for name, (value, _) in found.items()}

    unknown = losses(None, None)
    told = losses([[0, 1, "a"]], [[0, 60]])
    assert unknown["alignment"] > 0 == told["alignment"] < told["references"]
    beyond = losses([[0, 1, "a"]], [[0, 60]], start=100_000)
    assert beyond["alignment"] == unknown["alignment"] and beyond["references"] == 0


def test_pseudo_labels_go_by_all_crops_of_a_file():
    criterion = LikesObjective("pseudo_labels").criterion
    criterion.prepare([torch.tensor([0]), None], 3, num_epochs=3)
    likes = [torch.tensor([0]), torch.tensor([0]), None]
    claims = torch.tensor([[0.5, 0.9, 0.1], [0.6, 0.2, 0.3], [1.0, 1.0, 1.0]])
    criterion.observe(claims, likes, [[0], [0], [1]])
    assert criterion.claims[0].tolist() == pytest.approx([0.6, 0.9, 0.3])
    assert criterion.claims[1].isnan().all()
    criterion.set_epoch(1)
    criterion.observe(claims[1:2], likes[1:2], [[0]])  # of the next epoch
    assert criterion.claims[0].tolist() == pytest.approx([0.6, 0.2, 0.3])


def test_pseudo_labels_of_epochs_that_see_half_of_the_files():
    torch.manual_seed(0)
    criterion = LikesObjective({"name": "pseudo_labels", "warm_up": 0}).criterion
    nobody = torch.zeros(0).long()
    criterion.prepare([nobody] * 200, 1, num_epochs=9)
    for epoch in range(9):
        criterion.set_epoch(epoch)
        seen = torch.randperm(200)[:100].tolist()
        criterion.observe(torch.rand(100, 1), [nobody] * 100, [[file] for file in seen])
    assert criterion.labels.labels.isfinite().float().mean().item() == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("loss", ["role", "pseudo_labels"])
def test_losses_of_recordings_draw_slots_from_afar(loss):
    criterion = LikesObjective(loss).criterion
    likes = [torch.tensor([0])]
    criterion.prepare(likes, 2, num_epochs=2)
    logits = torch.tensor([[[-40.0, 0.0]]], requires_grad=True)
    criterion(torch.full((1, 1), 0.9), logits.log_softmax(-1), likes, [[0]]).loss.backward()
    assert logits.grad[0, 0, 0] < -0.1


def test_padding_of_likes_names_nobody():
    confidence, log_p = Toy()()
    for loss in RECORDING:
        criterion = LikesObjective(loss).criterion
        criterion.prepare([torch.tensor([1])], SPEAKERS, num_epochs=3)
        values = [
            criterion(confidence[:1], log_p[:1], [torch.tensor(liked)], [[0]]).loss.item()
            for liked in ([1], [1, -1])
        ]
        assert values[0] == values[1], loss


def test_labels_of_files_are_prepared():
    for loss in ("role", "pseudo_labels"):
        with pytest.raises(ValueError, match=f"'{loss}' keeps labels of files: call prepare"):
            LikesObjective(loss).criterion(*Toy()(), Toy().likes, [[0]] * FILES)


def test_the_risk_of_nnpu_has_no_bias_by_default():
    loss = {"name": "nnpu", "prior": 0.01}
    assert LikesObjective(loss).criterion.lambda_ == 1.0
    assert LikesObjective(loss, lambda_=0.5).criterion.lambda_ == 0.5
    with pytest.raises(ValueError, match="nnpu' has a prior in place of a tagging rate"):
        LikesObjective(loss, lambda_="auto")


def test_labels_begin_low_where_there_are_many_speakers():
    likes = [torch.tensor([0, 1]), torch.tensor([2, 3])]
    for options, num_speakers, begin in (
        ({}, 20, 0.02),
        ({"start": 0.5}, 20, 0.5),
        ({"expected": 0.0}, 20, 1e-4),
        ({"expected": 100.0}, 4, 0.5),
    ):
        criterion = LikesObjective({"name": "role", **options}).criterion
        criterion.prepare(likes, num_speakers, num_epochs=2)
        labels = criterion.labels.labels(torch.tensor([0]))[0, 2:]
        assert labels.mean().item() == pytest.approx(begin, rel=0.2)
