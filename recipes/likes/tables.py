"""The trainings that tables of `study.py` put side by side."""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Run:
    """One way to train."""

    name: str
    kept: float = 1.0
    """Share of the likes that is kept."""
    wrong: float = 0.0
    """Share of these that is replaced by names of people who are not there."""
    task: dict = field(default_factory=dict)
    """Options of `SpeakerLikes`."""
    model: dict = field(default_factory=dict)
    """Options of `Weighter`."""
    files: int | None = None
    """Number of training files, if not that of the study."""
    epochs: int | None = None
    """0: not trained."""
    subset: str = "train"
    """Of the protocol, to train on."""
    after: "Run | None" = None
    """Training whose weights this one starts from."""
    vectors: str | None = None
    """What the encoder learns simulated vectors from before anything else, see `vectors.py`."""


UNTRAINED = Run("untrained", epochs=0)
LOSSES = {
    "wBCE": "wbce",
    "BCE": "bce",
    "BCE, smoothed labels": "smoothed_bce",
    "weak negatives": "weak_negatives",
    "focal": "focal",
    "asymmetric": "asymmetric",
    "Hill": "hill",
    "SPLC": "splc",
    "entropy maximization": "entropy_maximization",
    "entropy maximization, pseudo-labels": {"name": "pseudo_labels", "warm_up": 1},
    "ROLE": "role",
    "nnPU": {"name": "nnpu", "prior": 0.0006, "surrogate": "logistic"},  # 5 of 24 * 343
    "softmax": "softmax",
    "Karu and Alumae": "recording_kl",
}
PUBLISHED = {"alignment": 0.0, "lambda_": 1.0}
WAITING = {"encoder_start": 0.5, "encoder_learning_rate": 0.0004}
STAYING = {"encoder_start": 1.0}
OTHER_VOICES = Run(
    "references of other voices",
    task={"supervision": "references", "learning_rate": 0.0004},
    subset="development",
)
VECTORS = Run("vectors, from their labels", epochs=0, vectors="labels")
OTHER_VOICES_LATER = replace(OTHER_VOICES, name="other voices, after vectors", after=VECTORS)


def losses(kept: float) -> list[Run]:
    """Runs of every loss, with alignment and without."""
    runs = [Run(name, kept, task={"loss": loss}) for name, loss in LOSSES.items()]
    runs.append(Run("wBCE, Sinkhorn", kept, task={"assignment": "sinkhorn"}))
    alone = [
        Run(f"{name}, no alignment", kept, task=PUBLISHED | {"loss": loss})
        for name, loss in LOSSES.items()
    ]
    return runs + alone


def waiting(kept: float) -> list[Run]:
    """Runs of every loss in which the encoder waits until prototypes are good."""
    return [
        Run(f"{name}, encoder waits", kept, task=WAITING | {"loss": loss})
        for name, loss in LOSSES.items()
    ]


TABLES = {
    "losses-100": [UNTRAINED, *losses(1.0)],
    "losses-75": [UNTRAINED, *losses(0.75)],
    "losses-50": [UNTRAINED, *losses(0.5)],
    "losses-25": [UNTRAINED, *losses(0.25)],
    "waiting-50": [UNTRAINED, *waiting(0.5)],
    "waiting-25": [UNTRAINED, *waiting(0.25)],
    "usual-frames": [
        Run(f"{name}, {kept:.0%} of likes, frames know {what}", kept, task={"loss": loss} | told)
        for what, told in (("voices", {}), ("nothing", {"voices": False}))
        for kept in (1.0, 0.5)
        for name, loss in (("wBCE", "wbce"), ("BCE", "bce"))
    ],
    "confidence": [
        Run("C of X with itself"),
        Run("mean of a second head", model={"confidence": "mean_head"}),
        Run("second head weighted by X", model={"confidence": "weighted_head"}),
        Run("C of X, no alignment", task=PUBLISHED),
        Run("mean, no alignment", task=PUBLISHED, model={"confidence": "mean_head"}),
        Run("weighted, no alignment", task=PUBLISHED, model={"confidence": "weighted_head"}),
    ],
    "price": [
        Run(f"lambda {price}, {kept:.0%} of likes", kept, task={"lambda_": price})
        for kept in (1.0, 0.5, 0.25)
        for price in (0.0, 0.1, 1.0, "auto")
    ],
    "rate": [
        Run(f"lambda auto, {kept:.0%} of likes{what}", kept, task={"lambda_": "auto"} | options)
        for what, options in (("", {}), (", not completed", {"complete": False}))
        for kept in (1.0, 0.75, 0.5, 0.25)
    ],
    "wrong": [
        Run(f"{wrong:.0%} wrong, {what}", wrong=wrong, task={"wrong_likes": option})
        for wrong in (0.0, 0.05, 0.1, 0.2)
        for what, option in (("believed", 0.0), ("robust", wrong))
        if wrong or not option
    ],
    "supervision": [
        UNTRAINED,
        Run("likes"),
        Run("half of the likes", 0.5),
        Run("half of the likes, not completed", 0.5, task={"complete": False}),
        Run("half of the likes, BCE", 0.5, task={"loss": "bce", "complete": False}),
        Run("references", task={"supervision": "references"}),
        Run("both", task={"supervision": "both"}),
    ],
    "schedule": [
        UNTRAINED,
        Run("likes"),
        Run("likes, encoder waits", task=WAITING),
        Run("likes, encoder stays", task=STAYING),
        Run("half of the likes", 0.5),
        Run("half of the likes, encoder waits", 0.5, task=WAITING),
        Run("half of the likes, encoder stays", 0.5, task=STAYING),
        Run("quarter of the likes", 0.25),
        Run("quarter of the likes, encoder waits", 0.25, task=WAITING),
        Run("quarter of the likes, encoder stays", 0.25, task=STAYING),
        Run("references", task={"supervision": "references"}),
        Run("references, encoder waits", task={"supervision": "references"} | WAITING),
    ],
    "curriculum": [
        UNTRAINED,
        Run("likes"),
        Run("references", task={"supervision": "references", "learning_rate": 0.0004}),
        OTHER_VOICES,
        Run("likes, after references of other voices", after=OTHER_VOICES),
        Run("half of the likes, after references of other voices", 0.5, after=OTHER_VOICES),
    ],
    "stages": [
        UNTRAINED,
        VECTORS,
        Run("vectors, from likes", epochs=0, vectors="likes"),
        OTHER_VOICES,
        OTHER_VOICES_LATER,
        Run("likes"),
        Run("likes, after vectors", after=VECTORS),
        Run("likes, after references of other voices", after=OTHER_VOICES),
        Run("likes, after vectors and other voices", after=OTHER_VOICES_LATER),
    ],
    "curve": [UNTRAINED, *(Run(f"{n} files", files=n) for n in (50, 100, 200, 400, 800, 1600))],
}
