"""How the command line behaves on a terminal: what is told, what is not, and Ctrl-C."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

OWN = (
    "pyannote reads the database.yml of the working folder, which is no definition of databases "
    "and protocols: mend it, or work in another folder. "
)


@contextmanager
def noting_interrupts() -> Iterator[list[int]]:
    """List of the times that Ctrl-C was pressed, whatever becomes of the KeyboardInterrupt.

    Lightning makes another exception of it, and where it falls into the end of a data loader it is
    lost: what is raised next are workers that have ended, too.
    """
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def note(number, frame):
        noted.append(number)
        before(number, frame)

    if callable(before):  # else it is ignored
        signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        if callable(before):
            signal.signal(signal.SIGINT, before)


def quiet() -> None:
    """Silence what upstream has to say about decoders that are not needed here."""
    import warnings

    warnings.filterwarnings("ignore", message=r"(?s).*torchcodec.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def quiet_lightning() -> None:
    """Silence what Lightning tells of itself, and warns of that is meant to be so here."""
    import logging
    import warnings

    from lightning.pytorch.utilities.rank_zero import LightningDeprecationWarning
    from lightning.pytorch.utilities.warnings import PossibleUserWarning

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=LightningDeprecationWarning)
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    for message in (
        "Your `IterableDataset` has `__len__`",
        "Precision .* is not supported by the model summary",
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        "Detected KeyboardInterrupt",
    ):
        warnings.filterwarnings("ignore", message=message)


def show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Print a warning as a person reads it, without a place in the code."""
    typer.secho(f"warning: {message}", fg="yellow", err=True)


def of_own_definition(error: Exception) -> bool:
    """Whether pyannote failed to read the database.yml of the working folder, when imported."""
    import traceback

    places = traceback.extract_tb(error.__traceback__)
    names = [place.name for place in places if Path(place.filename).name == "registry.py"]
    return "<module>" in names and "load_database" in names
