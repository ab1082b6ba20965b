"""Padding changes nothing: not what comes out, not the loss, not its gradient."""

import pytest
import torch
from lightning import Trainer

from pyannote_weighter.tasks import SpeakerLikes
from pyannote_weighter.tasks.samples import collate
from tests.models.test_weighter import small_weighter
from tests.tasks.conftest import InMemory


@pytest.fixture(scope="module", params=["refine", "wavlm"])
def trained(request, tones, tmp_path_factory) -> SpeakerLikes:
    """Task that is set up, and whose model has no dropout."""
    folder = tmp_path_factory.mktemp("padding")
    task = SpeakerLikes(InMemory(tones), folder, segmentation=None, batch_size=2, splice=0.0)
    model = small_weighter(request.param)
    model.task = task
    quiet = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    trainer = Trainer(accelerator="cpu", max_steps=1, **dict.fromkeys(quiet, False))
    trainer.fit(model)
    model.double().eval()  # what differs then differs for a reason
    task._log = lambda *args, **options: None
    return task


def sample(task: SpeakerLikes, index: int, num_frames: int) -> dict:
    """A training sample, with counts that a segmentation could have made."""
    sample = task.files.crop(index, _First())
    sample["frames"] = sample["frames"][:num_frames]
    generator = torch.Generator().manual_seed(index)
    count = torch.randint(0, 3, (len(sample["frames"]),), generator=generator)
    return sample | {"frames": sample["frames"].double(), "count": count.to(torch.uint8)}


class _First:
    """Random numbers for a crop that begins with the file."""

    @staticmethod
    def randint(low, high):
        """As `random.Random`."""
        return low


def padded(batch: dict, num_frames: int) -> dict:
    """The batch with frames behind it that are no part of any file, and not even zero."""
    frames, mask = batch["frames"], batch["mask"]
    noise = torch.full((len(frames), num_frames, frames.shape[2]), 0.5, dtype=frames.dtype)
    return batch | {
        "frames": torch.cat([frames, noise], dim=1),
        "mask": torch.cat([mask, mask.new_zeros(len(mask), num_frames)], dim=1),
        "count": torch.cat([batch["count"], batch["count"].new_ones(len(mask), num_frames)], 1),
    }


def loss_and_gradients(task: SpeakerLikes, batch: dict) -> tuple[torch.Tensor, dict]:
    task.model.zero_grad()
    loss = task.training_step(batch, 0)
    loss.backward()
    named = task.model.named_parameters()
    return loss.detach(), {n: p.grad.clone() for n, p in named if p.grad is not None}


@pytest.mark.parametrize("num_frames", [47, 50])  # a step is five frames: partial ones too
def test_a_padded_file_teaches_the_same(trained, num_frames):
    batch = collate([sample(trained, 0, num_frames)])
    loss, gradients = loss_and_gradients(trained, batch)
    more_loss, more_gradients = loss_and_gradients(trained, padded(batch, 61))
    torch.testing.assert_close(more_loss, loss, rtol=1e-6, atol=1e-8)
    assert gradients.keys() == more_gradients.keys() and len(gradients) > 10
    scale = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            more_gradients[name], gradient, rtol=1e-5, atol=1e-6 * scale.item(), msg=name
        )


def test_files_of_a_batch_do_not_see_each_other(trained):
    samples = [sample(trained, 0, 40), sample(trained, 1, 70), sample(trained, 2, 53)]
    with torch.inference_mode():
        together = trained._weigh(collate(samples))
        for index, one in enumerate(samples):
            alone, length = trained._weigh(collate([one])), len(one["frames"])
            for name in ("weightings", "embeddings", "confidence", "effective_frames"):
                ours, theirs = getattr(together, name)[index], getattr(alone, name)[0]
                if name == "weightings":
                    assert not ours[length:].any()
                    ours = ours[:length]
                torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8, msg=name)


def test_loss_of_a_batch_is_that_of_its_files(trained):
    """Of likes and alignment, whose mean is over files; activity is a mean over frames."""
    samples = [s | {"count": None} for s in (sample(trained, 0, 40), sample(trained, 1, 70))]
    together, _ = loss_and_gradients(trained, collate(samples))
    alone = [loss_and_gradients(trained, collate([one]))[0] for one in samples]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-6, atol=1e-8)
