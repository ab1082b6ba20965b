"""The first minute: a real conversation, diarized offline, scored, drawn."""

from importlib.util import find_spec
from pathlib import Path

from pyannote.core import Annotation, Segment, Timeline
from pyannote.database.util import load_rttm
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pyannote_weighter.audio import in_memory
from pyannote_weighter.output import (
    annotation_of,
    check_folder,
    confidences,
    to_json,
    write_json,
    write_rttm,
)
from pyannote_weighter.pipelines.baselines import load_stock
from pyannote_weighter.pipelines.folders import load_pipeline
from pyannote_weighter.plots import plot_diarization
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from pyannote_weighter.scoring import Score, score


def sample_files() -> tuple[Path, Path]:
    """Audio and reference of the conversation (30 s) that comes inside pyannote.audio.

    `pyannote.audio.sample` is not imported: it decodes the audio at import, which needs FFmpeg.
    """
    folder = Path(next(iter(find_spec("pyannote.audio").submodule_search_locations))) / "sample"
    audio, reference = folder / "sample.wav", folder / "sample.rttm"
    for path in (audio, reference):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: the installed pyannote.audio has no sample; pyannote-weighter is made "
                "for pyannote.audio 4.0"
            )
    return audio, reference


def demo(
    into: str | Path,
    pipeline: str | Path = DEFAULT_PIPELINE,
    device: str = "cpu",
    console: Console | None = None,
) -> dict[str, Score]:
    """Diarize the sample; print turns and errors; write RTTM, JSON and PNG.

    Parameters
    ----------
    into : path
        Folder of ``sample.rttm``, ``sample.json`` and ``sample.png``.
    pipeline : path, optional
        Folder of the pipeline. Defaults to the one that comes with the package.
    device : str
    console : Console, optional

    Returns
    -------
    scores : dict
        Score of ``pipeline`` and of ``stock`` clustering on the same segmentation and backbone.
    """
    into, console = Path(into), console or Console()
    check_folder(into)
    audio_path, reference_path = sample_files()
    file = in_memory(audio_path)
    reference = load_rttm(reference_path)["sample"]

    with console.status("diarizing with the Weighter"):
        artifacts = {}

        def keep(step, artifact=None, **_):
            artifacts[step] = artifact

        output = load_pipeline(pipeline, device)(dict(file), hook=keep)
    with console.status("diarizing with stock clustering"):
        stock = annotation_of(load_stock(device=device)(dict(file)))

    diarization = annotation_of(output)
    duration = file["waveform"].shape[1] / file["sample_rate"]
    everything = Timeline([Segment(0, duration)], uri="sample")
    scores = {
        "pipeline": score(reference, diarization, everything),
        "stock": score(reference, stock, everything),
    }
    console.print(turns_table(diarization))
    rows = {"Weighter": scores["pipeline"], "stock clustering": scores["stock"]}
    console.print(errors_table(rows))

    write_rttm(diarization, into / "sample.rttm")
    write_json(to_json(output, uri="sample"), into / "sample.json")
    plot_diarization(
        into / "sample.png",
        file["waveform"].numpy(),
        file["sample_rate"],
        diarization,
        reference=reference,
        weightings=getattr(output, "weightings", None),
        confidence=confidences(output),
        slots=artifacts.get("slots"),
        title="the sample of pyannote.audio",
    )
    for name in ("sample.rttm", "sample.json", "sample.png"):
        console.print(f"wrote {into / name}", markup=False, highlight=False, soft_wrap=True)
    return scores


def turns_table(diarization: Annotation) -> Table:
    """Table of turns."""
    table = Table(title="who speaks when")
    table.add_column("start", justify="right")
    table.add_column("end", justify="right")
    table.add_column("speaker")
    for turn, _, label in diarization.itertracks(yield_label=True):
        table.add_row(f"{turn.start:.2f}", f"{turn.end:.2f}", Text(str(label)))
    return table


def errors_table(scores: dict[str, Score]) -> Table:
    """Table of errors, in % of the reference speech."""
    table = Table(title="errors, % of speech (collar 0, overlap scored)")
    table.add_column("")
    for column in ("DER", "missed", "false alarm", "confusion", "speakers"):
        table.add_column(column, justify="right")
    for name, parts in scores.items():
        seconds = (parts.error, parts.missed, parts.false_alarm, parts.confusion)
        table.add_row(
            name,
            *(f"{100 * value / parts.total:.1f}" for value in seconds),
            f"{parts.speakers} of {parts.reference_speakers}",
        )
    return table
