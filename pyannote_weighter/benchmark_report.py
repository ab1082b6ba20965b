"""Tables of a benchmark, made from what `benchmark.json` holds and nothing else."""

from collections.abc import Callable
from statistics import mean, stdev

from pyannote_weighter.scoring import Score, bootstrap, pool

REFERENCE = "stock"  # what the others are compared with

# columns of the table of CPU times, and the hooks that each of them adds up
COLUMNS = {
    "segmentation": ("segmentation", "speaker_counting"),
    "embedding": ("embeddings", "frames", "speaker_embeddings"),
    "assignment": ("clustering", "assignment", "slots", "weightings"),
    "reconstruction": ("discrete_diarization", "annotation"),
}

# files by their number of speakers
GROUPS = (("one", 0, 1), ("2 to 4", 2, 4), ("5 and more", 5, float("inf")))

SHARED = "shared by the speakers of a window"  # frames of baselines that were made cheaper

DESCRIPTIONS = {
    "stock": "pyannote's `SpeakerDiarization`, agglomerative clustering",
    "VBx": "the same with `VBxClustering`, pyannote 4's default, and the PLDA of CAM++ of this "
    "package (`pretrained/plda`)",
    "oracle": "the same with `OracleClustering`: true labels, floor of relabelling",
    "frame by frame": "made by hand from the stock result, no learning",
    "frame by frame, over-split": "the same from an over-split start, with merging",
}


def summarize(results: dict) -> dict:
    """Pool over the files that every system has done.

    Parameters
    ----------
    results : dict
        Content of `benchmark.json`.

    Returns
    -------
    summary : dict
        ``files`` (uris), ``hours`` of audio, and per system under ``systems``: pooled rates,
        ``interval`` and ``difference`` (to stock, with its paired interval) for error and
        confusion, ``against`` (difference of confusion to every other system),
        ``right_counts`` for files of few and of many speakers, and CPU ``seconds`` per step per
        hour of audio.
    """
    names = list(results["systems"])
    uris = [
        uri
        for uri in results["order"]
        if set(names) <= set(results["files"].get(uri, {}).get("results", {}))
    ]
    done = [results["files"][uri] for uri in uris]
    hours = sum(file["duration"] for file in done) / 3600
    scores = {name: [Score(**file["results"][name]["score"]) for file in done] for name in names}

    systems = {}
    for name in names:
        pooled = pool(scores[name])
        seconds: dict[str, float] = {}
        for file in done:
            for step, value in file["results"][name]["seconds"].items():
                seconds[step] = seconds.get(step, 0.0) + value
        systems[name] = {
            **pooled,
            "interval": {p: list(bootstrap(scores[name], p)) for p in ("error", "confusion")},
            "difference": _differences(scores, name),
            "against": _against(scores, name),
            "right_counts": right_counts(scores[name]),
            "seconds": {step: value / hours for step, value in seconds.items()},
        }
    return {"files": uris, "hours": hours, "systems": systems}


def _differences(scores: dict[str, list[Score]], name: str) -> dict[str, dict]:
    """Difference to stock and its paired interval; none where stock was not run."""
    if REFERENCE not in scores:
        return {}
    parts = ("error", "confusion")
    return {part: _difference(scores[name], scores[REFERENCE], part) for part in parts}


def _against(scores: dict[str, list[Score]], name: str) -> dict[str, dict]:
    """Difference of confusion to every other system; none for what others are compared with."""
    if name in DESCRIPTIONS:
        return {}
    return {
        other: _difference(scores[name], rest, "confusion")
        for other, rest in scores.items()
        if other != name
    }


def _difference(scores: list[Score], rest: list[Score], part: str) -> dict:
    value = pool(scores)[part] - pool(rest)[part]
    return {"value": value, "interval": list(bootstrap(scores, part, rest))}


def right_counts(scores: list[Score]) -> dict[str, dict]:
    """Files, and share of them with the right number of speakers, by how many there are."""
    counts = {}
    for label, least, most in GROUPS:
        right = [
            score.speakers == score.reference_speakers
            for score in scores
            if least <= score.reference_speakers <= most
        ]
        if right:
            counts[label] = {"files": len(right), "right": mean(right)}
    return counts


def by_column(seconds: dict[str, float]) -> dict[str, float]:
    """Add up CPU seconds of steps into the columns of the table; unknown steps are assignment."""
    columns = dict.fromkeys(COLUMNS, 0.0)
    for step, value in seconds.items():
        column = next((c for c, steps in COLUMNS.items() if step in steps), "assignment")
        columns[column] += value
    return columns


def markdown(results: dict) -> str:
    """Make the page `benchmark.md`."""
    summary, systems = results["summary"], results["summary"]["systems"]
    lines = [
        f"# {results['protocol']}, {results['subset']}",
        "",
        f"{len(summary['files'])} files, {summary['hours']:.2f} h. Errors in % of reference "
        "speech, pooled over files, collar 0, overlap scored; in brackets 95 % intervals by "
        "bootstrap over files, paired where two systems are compared.",
        "",
    ]
    lines += errors_table(systems)
    lines += ["", *_counts(systems), "", *_paired(systems), "", *_several_pipelines(systems)]
    if not _untimed(results):
        lines += ["CPU seconds per hour of audio:", "", *seconds_table(systems), ""]
    lines += _notes(results)
    return "\n".join(lines).rstrip() + "\n"


def errors_table(systems: dict) -> list[str]:
    """Lines of the table of errors."""
    head = ["", "DER", "missed", "false alarm", "confusion", "right count"]
    if REFERENCE in systems:
        head += ["DER - stock", "confusion - stock"]
    lines = [f"| {' | '.join(head)} |".replace("|  |", "| |"), "|---" * len(head) + "|"]
    for name, system in systems.items():
        differences = [
            "" if name == REFERENCE else _percent(d["value"], d["interval"], sign=True)
            for d in system["difference"].values()
        ]
        cells = [
            name,
            _percent(system["error"], system["interval"]["error"]),
            _percent(system["missed"]),
            _percent(system["false_alarm"]),
            _percent(system["confusion"], system["interval"]["confusion"]),
            f"{100 * system['right_count']:.0f}",
            *differences,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _counts(systems: dict) -> list[str]:
    """Right counts for files of few and of many speakers."""
    return _bullets(
        systems,
        "right_counts",
        "right count by number of speakers",
        lambda label, count: f"{label}: {100 * count['right']:.0f} % of {count['files']}",
    )


def _paired(systems: dict) -> list[str]:
    """Confusion of each pipeline less that of every other system."""
    return _bullets(
        systems,
        "against",
        "confusion less that of others",
        lambda other, d: f"{other} {_percent(d['value'], d['interval'], sign=True)}",
    )


def _bullets(systems: dict, key: str, title: str, show: Callable[[str, dict], str]) -> list[str]:
    """One line for each system that has something under a key."""
    return [
        f"- {name}, {title}: " + ", ".join(show(*item) for item in system[key].items())
        for name, system in systems.items()
        if system[key]
    ]


def seconds_table(systems: dict) -> list[str]:
    """Lines of the table of CPU times."""
    head = [*COLUMNS, "all"]
    stock = None
    if REFERENCE in systems:
        head.append("embedding + assignment, stock = 1")
        stock = by_column(systems[REFERENCE]["seconds"])
    lines = ["| | " + " | ".join(head) + " |", "|---|" + "---|" * len(head)]
    for name, system in systems.items():
        if name == "oracle":
            continue  # it computes no embeddings: its time would mean nothing
        columns = by_column(system["seconds"])
        cells = [f"{value:.1f}" for value in (*columns.values(), sum(columns.values()))]
        if stock is not None:
            ratio = (columns["embedding"] + columns["assignment"]) / max(
                stock["embedding"] + stock["assignment"], 1e-9
            )
            cells.append(f"{ratio:.3f}")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return lines


def _several_pipelines(systems: dict) -> list[str]:
    """Mean and standard deviation over the pipelines given, where there are several."""
    given = [system for name, system in systems.items() if name.startswith("Weighter")]
    if len(given) < 2:
        return []
    parts = [
        f"{label} {100 * mean(values):.2f} ± {100 * stdev(values):.2f}"
        for label, values in (
            ("DER", [system["error"] for system in given]),
            ("confusion", [system["confusion"] for system in given]),
            ("right count", [system["right_count"] for system in given]),
        )
    ]
    return [
        f"Over the {len(given)} Weighters (mean ± standard deviation): {', '.join(parts)}.",
        "",
    ]


def _notes(results: dict) -> list[str]:
    lines = [
        f"- {name}: {DESCRIPTIONS[name]}" for name in results["systems"] if name in DESCRIPTIONS
    ]
    tuning = results.get("tuning")
    origin = f"chosen on {tuning['subset']}" if tuning else "chosen on other voices"
    if REFERENCE in results["systems"]:
        parameters = results["systems"][REFERENCE]["parameters"]
        lines.append(
            f"- stock, frame by frame: centroid linkage, threshold {parameters['threshold']:g}, "
            f"at least {parameters['min_cluster_size']} embeddings a cluster, {origin}"
        )
    if "VBx" in results["systems"]:
        parameters = results["systems"]["VBx"]["parameters"]
        values = ", ".join(f"{name} {value:g}" for name, value in parameters.items())
        lines.append(f"- VBx: {values}, {origin}")
    lines += _untimed(results)
    environment = [f"{k} {v}" for k, v in results["environment"].items() if k != "baselines"]
    lines.append(f"- {', '.join(environment)}")
    if uris := silent(results):
        lines.append(
            f"- **{len(uris)} files have an empty reference**, scored as silence, which an RTTM "
            f"cannot tell from a file that it does not list: {', '.join(uris)}"
        )
    left_out = len(results["order"]) - len(results["summary"]["files"])
    if left_out:
        lines.append(f"- **{left_out} files left out**: not every system could do them")
    return lines


def _untimed(results: dict) -> list[str]:
    """Why there is no table of times; nothing where there is one."""
    environment, lines = results["environment"], []
    if shared := environment.get("baselines"):
        lines.append(f"- baselines: frames {shared}, which costs less than stock: no times given")
    if environment.get("device", "cpu") != "cpu":
        lines.append("- no times given: those of a GPU are not in the time of the CPU")
    elif any(
        results["files"][uri]["results"][name].get(key) != environment.get(key)
        for uri in results["summary"]["files"]
        for name in results["systems"]
        for key in ("device", "threads")
    ):
        lines.append(
            "- no times given: not all are known to be of this device and number of threads "
            "(choose another folder, --into, to take them anew)"
        )
    return lines


def silent(results: dict) -> list[str]:
    """Uris of files that were scored, in whose reference nobody speaks."""
    return [
        uri
        for uri in results["order"]
        if any(
            record["score"]["reference_speakers"] == 0
            for record in results["files"].get(uri, {}).get("results", {}).values()
        )
    ]


def _percent(value: float, interval=None, sign: bool = False) -> str:
    form = "{:+.1f}" if sign else "{:.1f}"
    text = form.format(100 * value)
    if interval is None:
        return text
    low, high = (form.format(100 * bound) for bound in interval)
    return f"{text} [{low}, {high}]"
