"""Writing what a pipeline found: RTTM and JSON files that are whole or not there at all."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyannote.core import Annotation


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Path to write to, which becomes `path` when the block ends well, and vanishes when not.

    Missing parent folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(content: Any, path: str | Path) -> None:
    """Write JSON, with two spaces of indentation. NaN and infinity are refused (ValueError)."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


def write_rttm(diarization: Annotation, path: str | Path) -> None:
    """Write RTTM. Fields of RTTM hold no spaces: each becomes an underscore in uri and names."""
    names = {label: _one_field(label) for label in diarization.labels()}
    if len(set(names.values())) < len(names):
        raise ValueError(
            f"names that differ only in spaces cannot be told apart in RTTM: {sorted(names)}"
        )
    diarization = diarization.rename_labels(names)
    diarization.uri = _one_field(diarization.uri or "unknown")
    with atomic(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        diarization.write_rttm(file)


def _one_field(text: Any) -> str:
    return re.sub(r"\s", "_", str(text)) or "_"


def annotation_of(output) -> Annotation:
    """Diarization in the output of a pipeline, which may be the diarization itself (legacy)."""
    return output if isinstance(output, Annotation) else output.speaker_diarization


def confidences(output) -> dict[str, float]:
    """Confidence of every speaker, empty for pipelines that have none to tell."""
    confidence = getattr(output, "confidence", None)
    if confidence is None:
        return {}
    labels = annotation_of(output).labels()
    if not hasattr(confidence, "keys"):
        confidence = dict(zip(labels, confidence, strict=True))
    return {label: float(confidence[label]) for label in labels}


def to_json(output, uri: str | None = None) -> dict[str, Any]:
    """What a pipeline found, in lists and dictionaries that JSON can hold.

    Parameters
    ----------
    output : DiarizeOutput or Annotation
        Output of a diarization pipeline.
    uri : str, optional
        Defaults to the uri of the diarization.

    Returns
    -------
    content : dict
        ``uri``; ``speakers``: label, seconds of speech, and where the pipeline tells them,
        confidence and embedding; ``diarization`` and ``exclusive_diarization`` (no overlap):
        start and end in seconds, speaker.
    """
    diarization = annotation_of(output)
    known = confidences(output)
    embeddings = getattr(output, "speaker_embeddings", None)
    speakers = []
    for index, label in enumerate(diarization.labels()):
        speaker = {"speaker": label, "duration": round(diarization.label_duration(label), 3)}
        if label in known:
            speaker["confidence"] = round(known[label], 4)
        if embeddings is not None:
            speaker["embedding"] = [round(float(value), 6) for value in embeddings[index]]
        speakers.append(speaker)

    content = {
        "uri": uri or diarization.uri,
        "speakers": speakers,
        "diarization": _turns(diarization),
    }
    exclusive = getattr(output, "exclusive_speaker_diarization", None)
    if exclusive is not None:
        content["exclusive_diarization"] = _turns(exclusive)
    return content


def _turns(diarization: Annotation) -> list[dict[str, Any]]:
    return [
        {"start": round(turn.start, 3), "end": round(turn.end, 3), "speaker": label}
        for turn, _, label in diarization.itertracks(yield_label=True)
    ]
