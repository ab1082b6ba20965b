"""A diarization pipeline without models, for tests of what is built around pipelines."""

import numpy as np
from pyannote.audio import Pipeline
from pyannote.audio.pipelines.speaker_diarization import DiarizeOutput
from pyannote.core import Annotation, Segment, SlidingWindow, SlidingWindowFeature


class HalfAndHalf(Pipeline):
    """One speaker for the first half of a file, another one for the second."""

    calls: list[str] = []

    def __init__(self, weightings: bool = True, token=None, cache_dir=None):
        super().__init__()
        self.with_weightings = weightings

    def default_parameters(self):
        """No parameters."""
        return {}

    def apply(self, file, num_speakers=None, hook=None, **options):
        """Cut a file into halves."""
        HalfAndHalf.calls.append(file["uri"])
        hook = self.setup_hook(file, hook=hook)
        if num_speakers == 7:
            raise ValueError("seven speakers cannot be told apart")
        duration = file["waveform"].shape[1] / file["sample_rate"]
        hook("segmentation", None, completed=1, total=1)
        diarization = Annotation(uri=file["uri"])
        diarization[Segment(0, duration / 2), 0] = "SPEAKER_00"
        diarization[Segment(duration / 2, duration), 1] = "SPEAKER_01"
        output = DiarizeOutput(diarization, diarization, np.ones((2, 3)))
        if self.with_weightings:
            first = np.arange(100) < 50
            output.weightings = SlidingWindowFeature(
                1.0 * np.stack([first, ~first], axis=1),
                SlidingWindow(duration / 100, duration / 100),
            )
            output.confidence = {"SPEAKER_00": 0.9, "SPEAKER_01": 0.8}
        return output


def write_pipeline(folder):
    """Write the pipeline as a folder for `Pipeline.from_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "pipeline:\n  name: tests.dummy_pipeline.HalfAndHalf\nparams: {}\n"
    (folder / "config.yaml").write_text(text)
    return folder
