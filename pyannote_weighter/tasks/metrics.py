"""Validation metrics: likes shared between files, and frame-level diarization error rate."""

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.retrieval import retrieval_average_precision
from torchmetrics.utilities import dim_zero_cat

from pyannote_weighter.matching import assign


def have_references(entries: Sequence[dict]) -> bool:
    """Whether DER can be measured on development files, see `choose_metric`."""
    return any(entry["turns"] for entry in entries)


def choose_metric(entries: Sequence[dict]) -> tuple[str | None, str]:
    """Metric by which epochs can be compared on development files.

    Parameters
    ----------
    entries : list of dict
        See `pyannote_weighter.tasks.samples.reference_entry`.

    Returns
    -------
    metric : str or None
        Frame-level DER where there are references, else mean average precision of likes, unless
        no file has others both to find and to leave: any order of files would then be right.
    mode : "min" or "max"
        Which values are good.
    """
    if have_references(entries):
        return "DiarizationErrorRate", "min"
    files = [set(entry["likes"]) for entry in entries if entry["likes"] is not None]
    for query, likes in enumerate(files):
        relevant = {bool(likes & file) for index, file in enumerate(files) if index != query}
        if len(relevant) == 2:
            return "LikesMeanAveragePrecision", "max"
    return None, "min"


class LikesMeanAveragePrecision(Metric):
    """Whether files that share a like have slots that look alike.

    Every file with known likes is a query; the other files are ranked by the best
    confidence-weighted cosine between a slot of theirs and a slot of the query; a file is relevant
    when it shares a like with the query. The mean of the average precisions needs no classifier
    and holds for speakers never seen in training.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("slots", default=[], dist_reduce_fx="cat")  # (B, N, D) tensors
        self.add_state("confidence", default=[], dist_reduce_fx="cat")  # (B, N) tensors
        self.add_state("num_likes", default=[], dist_reduce_fx="cat")  # (B,) tensors
        # names as numbers: tensors are what processes can exchange
        self.add_state("likes", default=[], dist_reduce_fx="cat")  # (sum of num_likes,) tensors

    def update(
        self, embeddings: Tensor, confidence: Tensor, likes: Sequence[Sequence[str] | None]
    ) -> None:
        """Add files.

        Parameters
        ----------
        embeddings : (B, N, D) tensor
        confidence : (B, N) tensor
        likes : list of names, or None where they are not known
        """
        known = [index for index, names in enumerate(likes) if names is not None]
        names = [sorted(set(likes[index])) for index in known]
        numbers = [_number(name) for file_names in names for name in file_names]
        # a batch without any such file is kept too: processes exchange tensors of one shape
        self.slots.append(F.normalize(embeddings.detach().float(), dim=-1)[known])
        self.confidence.append(confidence.detach().float()[known])
        self.num_likes.append(torch.tensor([len(n) for n in names], device=self.device).long())
        self.likes.append(torch.tensor(numbers, device=self.device).long())

    def compute(self) -> Tensor:
        """Mean average precision, 0 when no two files share a like."""
        numbers = dim_zero_cat(self.num_likes).tolist() if len(self.num_likes) else []
        if len(numbers) < 2:
            return torch.tensor(0.0, device=self.device)
        names = [set(n.tolist()) for n in dim_zero_cat(self.likes).cpu().split(numbers)]
        slots = dim_zero_cat(self.slots).cpu()  # (M, N, D)
        weights = dim_zero_cat(self.confidence).cpu()  # (M, N)
        precisions = []
        for query, (own, own_weights) in enumerate(zip(slots, weights, strict=True)):
            relevant = torch.tensor([bool(names[query] & other) for other in names])
            relevant[query] = False
            if not relevant.any():
                continue
            similarity = torch.einsum("nd,mkd->mnk", own, slots)  # (M, N, N)
            similarity = similarity * own_weights[None, :, None] * weights[:, None, :]
            # torchmetrics takes scores of zero and less for files that were not found
            score = similarity.amax(dim=(1, 2)).double() + 2.0
            keep = torch.arange(len(names)) != query
            precisions.append(retrieval_average_precision(score[keep], relevant[keep]))
        mean = torch.stack(precisions).mean() if precisions else torch.tensor(0.0)
        return mean.to(self.device)


def _number(name: str) -> int:
    """Whole number of 63 bits that stands for a name, the same in every process."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


class FrameDiarizationErrorRate(Metric):
    """Diarization error rate on frames, errors pooled over files.

    Slots are mapped one-to-one to the reference speakers of their file so that most time agrees.
    """

    higher_is_better = False
    full_state_update = False

    def __init__(self):
        super().__init__()
        for part in ("false_alarm", "missed", "confusion", "total"):
            self.add_state(part, default=torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, active: Tensor, reference: Tensor) -> None:
        """Add one file.

        Parameters
        ----------
        active : (T, N) bool tensor
        reference : (T, K) bool tensor
        """
        active, reference = active.float(), reference.float().to(active.device)
        with torch.autocast(active.device.type, enabled=False):  # half precision cannot count
            overlap = active.T @ reference  # (N, K)
        slots, speakers = assign(-overlap)
        correct = (active[:, slots] * reference[:, speakers]).sum(dim=-1)  # (T,)
        hypothesized, present = active.sum(dim=-1), reference.sum(dim=-1)
        false_alarm = (hypothesized - present).clamp_min(0).sum()
        missed = (present - hypothesized).clamp_min(0).sum()
        confusion = (torch.minimum(hypothesized, present) - correct).sum()
        # not in place: after `trainer.validate` these are tensors of inference mode
        self.false_alarm = self.false_alarm + false_alarm
        self.missed = self.missed + missed
        self.confusion = self.confusion + confusion
        self.total = self.total + present.sum()

    def compute(self) -> Tensor:
        """Diarization error rate, 0 when the reference is empty."""
        errors = self.false_alarm + self.missed + self.confusion
        return errors / self.total.clamp_min(1.0)
