"""A protocol for recordings that have likes and nothing else."""

import pyannote.database.protocol
from pyannote.database.protocol import SpeakerDiarizationProtocol


class SpeakerLikesProtocol(SpeakerDiarizationProtocol):
    """Protocol whose files carry ``likes``; references are welcome and optional.

    Like a ``SpeakerDiarization`` protocol with a ``likes`` entry (which needs no registration
    and is the canonical form), but it refuses ``scope: file``, as names that
    mean something in one file only cannot be learned from, and counts likes in ``stats``.

    ::

        Protocols:
          Radio:
            SpeakerLikes:
              Episodes:
                scope: global
                train: {uri: train.lst, likes: train.likes}

    Call `register` before the YAML file is loaded.
    """

    def subset_helper(self, subset):
        """Iterate over the files of a subset; a ValueError where their scope is ``file``."""
        for file in super().subset_helper(subset):
            if file.get("scope") == "file":
                raise ValueError(
                    f"{getattr(self, 'name', type(self).__name__)}: likes name speakers across "
                    "files, but the scope is 'file'. Set `scope: database` or `scope: global` "
                    "in the YAML file, beside `train`."
                )
            yield file

    def stats(self, subset="train") -> dict:
        """Count files and likes of a subset.

        Returns
        -------
        stats : dict
            ``n_files``; ``n_known``, the files whose likes are known, with or without names;
            ``likes``, the number of files for each name.
        """
        likes: dict[str, int] = {}
        n_files = n_known = 0
        for file in getattr(self, subset)():
            n_files += 1
            names = file.get("likes")
            n_known += names is not None
            for name in names or ():
                likes[name] = likes.get(name, 0) + 1
        return {"n_files": n_files, "n_known": n_known, "likes": likes}


def register() -> None:
    """Make ``X.SpeakerLikes.Y`` protocols known to pyannote.database, for this process.

    pyannote.database looks the class of a protocol up by name in its own module when it
    loads a YAML file, and skips protocols that it does not know. So register first and load then::

        register()
        registry.load_database("database.yml")

    YAML files that pyannote.database loads by itself at its import come too early; load them
    again. Calling this twice is harmless.

    Raises
    ------
    RuntimeError
        Another package has put a class of the same name there.
    """
    known = getattr(pyannote.database.protocol, "SpeakerLikesProtocol", SpeakerLikesProtocol)
    if known is not SpeakerLikesProtocol:
        raise RuntimeError(
            f"pyannote.database already has a SpeakerLikes protocol, of {known.__module__}. "
            "Use a SpeakerDiarization protocol with a `likes` entry instead."
        )
    pyannote.database.protocol.SpeakerLikesProtocol = SpeakerLikesProtocol
