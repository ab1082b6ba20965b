"""The command line. What is heavy is imported inside the commands, so that `--help` is fast."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from pyannote_weighter import __version__
from pyannote_weighter.messages import some_of
from pyannote_weighter.terminal import (
    OWN,
    noting_interrupts,
    of_own_definition,
    quiet,
    quiet_lightning,
    show_warning,
)

# no telemetry unless asked for: set before pyannote is imported
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")


class _Commands(TyperGroup):
    """Commands whose errors are told: Typer takes the end of a file for Ctrl-D, and just stops."""

    def invoke(self, ctx):
        """Run a command."""
        try:
            return super().invoke(ctx)
        except EOFError as error:
            raise OSError(f"a file ends too early, it may be damaged: {error}") from error


app = typer.Typer(
    name="pyannote-weighter",
    cls=_Commands,
    help="Speaker diarization that learns from likes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Into = Annotated[Path, typer.Option(help="Folder to write to; made if missing.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
Results = Annotated[
    list[Path], typer.Argument(help="JSON that `apply` wrote.", metavar="RESULT...")
]
Registry = Annotated[Path, typer.Option(help="The database.yml that defines the protocol.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pyannote-weighter {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show it."),
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    into: Into = Path("pyannote-weighter-demo"),
    pipeline: Annotated[
        Path | None, typer.Option(help="Folder of another pipeline than the default one.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Diarize the conversation inside pyannote.audio, offline; compare with stock clustering."""
    quiet()
    from pyannote_weighter.demo import demo as run
    from pyannote_weighter.pretrained import DEFAULT_PIPELINE

    run(into, pipeline or DEFAULT_PIPELINE, _device(device))


@app.command()
def apply(
    files: Annotated[list[Path], typer.Argument(help="Audio files.", metavar="FILE...")],
    into: Into,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Any of rttm, json, csv, audacity (label track, .txt), webvtt (.vtt), png, "
            "separated by commas.",
        ),
    ] = "rttm,json",
    pipeline: Annotated[
        str | None, typer.Option(help="Folder, or name on the Hub; default: the one shipped.")
    ] = None,
    num_speakers: Annotated[
        int | None, typer.Option(min=1, help="Number of speakers, when known.")
    ] = None,
    min_speakers: Annotated[int | None, typer.Option(min=1, help="Fewest speakers.")] = None,
    max_speakers: Annotated[int | None, typer.Option(min=1, help="Most speakers.")] = None,
    likes: Annotated[
        Path | None,
        typer.Option(
            help="A .likes file: a recording has as many speakers as likes, or more, as far as "
            "--num-speakers and --max-speakers allow. What --resume leaves out stays as it is."
        ),
    ] = None,
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of PyTorch; default: its own choice.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Leave out files whose results are there, however they were made.")
    ] = False,
) -> None:
    """Diarize files. The exit code is 1 when a file failed; the others are still done."""
    quiet()
    from pyannote_weighter.apply import (
        FORMATS,
        apply_to_files,
        check_bounds,
        check_likes,
        check_names,
        check_recordings,
        distinct,
    )
    from pyannote_weighter.database import read_likes
    from pyannote_weighter.output import check_folder, check_formats

    wanted = _listed(formats)
    unique = distinct(files)
    options = {
        "num_speakers": num_speakers,
        "min_speakers": min_speakers,
        "max_speakers": max_speakers,
    }
    check_formats(wanted, FORMATS)  # before the models are loaded
    check_bounds(options)
    check_names(unique, into)
    liked = None if likes is None else read_likes(likes)
    check_likes(unique, liked, str(likes))
    check_recordings(unique, into, wanted)
    where = _device(device)
    check_folder(into)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)

    from pyannote_weighter.pipelines.folders import load_pipeline
    from pyannote_weighter.pretrained import DEFAULT_PIPELINE

    loaded = load_pipeline(pipeline or DEFAULT_PIPELINE, where)
    failures = apply_to_files(loaded, unique, into, wanted, options, resume=resume, likes=liked)
    if failures:
        typer.echo(f"{len(failures)} of {len(unique)} files failed", err=True)
        raise typer.Exit(1)


@app.command()
def benchmark(
    protocol: Annotated[str, typer.Argument(help="For instance Simulated.SpeakerDiarization.A.")],
    registry: Registry,
    into: Into,
    subset: Annotated[str, typer.Option(help="train, development or test.")] = "test",
    pipeline: Annotated[
        list[Path] | None, typer.Option(help="Folder of a pipeline; may be given several times.")
    ] = None,
    development: Annotated[
        str | None,
        typer.Option(help="Subset to choose the clustering's parameters on; default: fixed ones."),
    ] = None,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    share_frames: Annotated[
        bool, typer.Option(help="Cheaper baselines: same errors, no table of costs.")
    ] = False,
    rivals: Annotated[
        bool, typer.Option(help="Run the baselines too; they take most of the time.")
    ] = True,
) -> None:
    """Compare pipelines with stock clustering, VBx, the oracle and rivals made by hand.

    A run that was stopped goes on where it was. The exit code is 1 when a file failed.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    quiet()
    from pyannote_weighter.benchmark import benchmark as run
    from pyannote_weighter.pretrained import DEFAULT_PIPELINE

    results = run(
        protocol,
        registry,
        into,
        subset=subset,
        pipelines=pipeline or [DEFAULT_PIPELINE],
        development=development,
        device=_device(device),
        threads=threads,
        share_frames=share_frames,
        rivals=rivals,
    )
    if (into / "benchmark.md").is_file():
        typer.echo((into / "benchmark.md").read_text(encoding="utf-8"))
    if results["failures"]:
        typer.echo(f"{len(results['failures'])} files failed: see above", err=True)
        raise typer.Exit(1)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; see recipes/.")],
    into: Into,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
    seed: Annotated[int | None, typer.Option(help="In place of the one in the file.")] = None,
) -> None:
    """Train a Weighter from likes; write checkpoints, metrics and a pipeline folder."""
    quiet()
    quiet_lightning()
    from lightning.pytorch.utilities import rank_zero_only
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from pyannote_weighter.training import train as run

    say = rank_zero_only(typer.echo)  # of several processes, one
    try:
        with noting_interrupts() as interrupts:
            folder = run(config, into, resume, seed)
    except BaseException as error:
        terminated = isinstance(error, SIGTERMException)
        interrupted = interrupts or KeyboardInterrupt in map(type, (error, error.__context__))
        if not (terminated or interrupted):
            raise
        if (into / "checkpoints" / "last.ckpt").is_file():
            say("stopped: --resume goes on after the last whole epoch", err=True)
        raise typer.Exit(143 if terminated else 130) from None
    say(f"pipeline: {folder}")


@app.command()
def name(
    results: Results,
    into: Into,
    likes: Annotated[
        Path | None, typer.Option(help="A .likes file: who is somewhere in which recording.")
    ] = None,
    voices: Annotated[
        Path | None, typer.Option(help="voices.safetensors of an earlier run, instead of likes.")
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Any of rttm, json, csv, audacity (label track, .txt), webvtt (.vtt), separated "
            "by commas; JSON is always written.",
        ),
    ] = "rttm,json",
) -> None:
    """Name speakers across recordings, by likes or by voices that were learned from them.

    No training: it goes by the embeddings in the JSON of `apply`. Writes results with names, and
    with --likes voices.safetensors.
    """
    if (likes is None) == (voices is None):
        raise ValueError("give either --likes or --voices")
    quiet()
    from pyannote_weighter.archive import FORMATS, VOICES, name_results
    from pyannote_weighter.database import read_likes
    from pyannote_weighter.naming import Voices
    from pyannote_weighter.output import check_folder, check_formats
    from pyannote_weighter.results import read_results

    wanted = _listed(formats)
    check_formats(wanted, FORMATS)
    given = read_likes(likes) if likes else None
    known = Voices.load(voices) if voices else None
    read = read_results(results)
    check_folder(into)
    summary = name_results(read, into, given, known, wanted)
    for together in summary.unclear:
        typer.echo(
            f"{_names(together)}: liked in the same recordings, or one voice fits all of them; "
            "nobody gets these names. More likes tell them apart",
            err=True,
        )
    if summary.doubtful:
        typer.echo(
            f"{_names(summary.doubtful)}: no voice is in all recordings with this name, or one "
            "is that may be there by chance; nobody gets these names. More likes may help",
            err=True,
        )
    if summary.unused:
        some, number = some_of(summary.unused), len(summary.unused)
        typer.echo(f"{likes}: no result of {number} recordings ({some})", err=True)
    if summary.gone:
        typer.echo(
            f"{into / VOICES}: {_names(summary.gone)} had a voice there before, and has none "
            "any more",
            err=True,
        )
    if summary.stale:
        stale = sorted(path.name for path in summary.stale)
        typer.echo(
            f"{len(stale)} files in other formats keep the labels from before ({some_of(stale)}): "
            f"--format {','.join(sorted(set(summary.stale.values())))} writes them with names",
            err=True,
        )
    named = sum(map(len, summary.matches.values()))
    every = sum(len(result) > 0 for result in summary.matches.values())
    typer.echo(
        f"{len(summary.voices.names)} voices; {named} speakers named in {every} of "
        f"{len(summary.matches)} recordings: {into}" + (f", {into / VOICES}" if likes else "")
    )


@app.command()
def find(
    who: Annotated[str, typer.Argument(metavar="NAME", help="As in the likes.")],
    results: Results,
    voices: Annotated[Path, typer.Option(help="voices.safetensors, which `name` writes.")],
    top: Annotated[int, typer.Option(min=1, help="Lines to show.")] = 20,
) -> None:
    """Find somebody in an archive: recordings by how alike their most alike speaker is.

    A line a recording, separated by tabs: yes where the voice is recognized, else maybe; cosine;
    seconds that the speaker speaks; seconds to the first turn; recording; speaker. Tabs in
    their names become spaces.
    """
    quiet()
    from pyannote_weighter.archive import find_voice
    from pyannote_weighter.naming import Voices
    from pyannote_weighter.results import read_results

    hits = find_voice(who, read_results(results), Voices.load(voices))
    for hit in hits[:top]:
        sure = "yes" if hit.recognized else "maybe"
        typer.echo(
            f"{sure}\t{hit.cosine:.2f}\t{hit.seconds:.1f}\t{hit.start:.1f}"
            f"\t{_column(hit.uri)}\t{_column(hit.speaker)}"
        )


def _names(names: Iterable[str]) -> str:
    """Names as they stand in a .likes file: they may hold commas."""
    from pyannote_weighter.database.likes import quote_item

    return ", ".join(map(quote_item, names))


def _column(text: str) -> str:
    """Text without tabs and line breaks, which become spaces."""
    return " ".join(str(text).replace("\t", " ").splitlines())


def _listed(names: str) -> list[str]:
    """Names that are separated by commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


def _device(name: str) -> str:
    """Resolve "auto"; refuse what cannot be computed on here."""
    if name == "cpu":
        return name
    import torch

    device = name
    if name == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # this torch is not built for it
        reason = str(error).partition("\n")[0]
        if name == "auto":
            typer.echo(f"the GPU cannot be used ({reason}): computing on the CPU", err=True)
            return "cpu"
        raise ValueError(
            f"--device {name} cannot be used here ({reason}): choose auto or cpu, or a GPU that "
            "PyTorch finds (cuda, cuda:1)"
        ) from None
    return device


def main() -> None:
    """Run the command line; errors that a person can cure are shown without a traceback."""
    import warnings

    warnings.showwarning = show_warning
    if hasattr(sys.stdout, "reconfigure"):  # names may hold what the terminal has no letters for
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except Exception as error:
        own = of_own_definition(error)
        known = own or isinstance(error, OSError | ValueError | ImportError)
        if not known or os.environ.get("PYANNOTE_WEIGHTER_TRACEBACK"):
            raise
        typer.secho(f"error: {OWN if own else ''}{error}", fg="red", err=True)
        typer.echo("(set PYANNOTE_WEIGHTER_TRACEBACK=1 to see where it comes from)", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
