"""What there is to beat: pyannote's pipelines, the oracle of relabelling, a rival made by hand.

All of them run on the same segmentation and the same backbone. With `training` set, they keep
segmentation and embeddings in the file that they are given (this is upstream's own cache), so
that whoever comes next on the same file does not compute them again.
"""

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import torch
from pyannote.audio import Model
from pyannote.audio.core.plda import PLDA
from pyannote.audio.pipelines.clustering import OracleClustering, VBxClustering
from pyannote.audio.pipelines.speaker_diarization import DiarizeOutput, SpeakerDiarization
from pyannote.core import Annotation, SlidingWindow, SlidingWindowFeature
from scipy.optimize import linear_sum_assignment

from pyannote_weighter.assignment import top_speakers
from pyannote_weighter.audio import load_waveform
from pyannote_weighter.models.backbones import get_backbone, window_frames
from pyannote_weighter.models.campplus import CAMPPlus
from pyannote_weighter.pipelines.answer import speaker_names
from pyannote_weighter.pipelines.frame_by_frame import FrameByFrame
from pyannote_weighter.pretrained import PLDA_FOLDER, segmentation_path
from pyannote_weighter.segmentation import sample_nearest

# best on other voices; `pyannote-weighter benchmark --development` chooses them anew
THRESHOLD = 0.8
MIN_CLUSTER_SIZE = 3
VBX_PARAMETERS = {"threshold": 0.7, "Fa": 0.03, "Fb": 0.1}

REVISION = 2  # of what baselines compute: benchmarks do not reuse the results of another one

BATCH_SIZE = 24  # where speakers of a window share frames: 8 windows of 3 speakers


class ClusteredDiarization(SpeakerDiarization):
    """pyannote's speaker diarization with nothing changed in it.

    Embeddings leave out speech of several people, as in all published pipelines of pyannote
    (upstream's class does not by default). It adds one hook, `clustering`, between clustering and
    reconstruction: upstream has none there, and what each of them costs is worth knowing.
    """

    def __init__(self, embedding_exclude_overlap: bool = True, **options):
        super().__init__(embedding_exclude_overlap=embedding_exclude_overlap, **options)
        self._hook: Callable | None = None

    def set_clustering(self, **parameters) -> None:
        """Change the parameters of the clustering."""
        self.instantiate({"segmentation": {"min_duration_off": 0.0}, "clustering": parameters})

    def apply(self, file, hook: Callable | None = None, **options) -> DiarizeOutput | Annotation:
        """Apply upstream's diarization, with a hook `clustering` between two of its steps."""
        self._hook = self.setup_hook(file, hook=hook)
        try:
            return super().apply(file, hook=hook, **options)
        finally:
            self._hook = None

    def reconstruct(self, segmentations, hard_clusters, count) -> SlidingWindowFeature:
        """Build the diarization out of clusters, as upstream does."""
        if self._hook is not None:
            self._hook("clustering", hard_clusters)
            self._hook = None  # upstream reconstructs a second time, for the exclusive output
        return super().reconstruct(segmentations, hard_clusters, count)


class StockDiarization(ClusteredDiarization):
    """pyannote's speaker diarization with agglomerative clustering, as in pyannote.audio 3.

    Parameters
    ----------
    segmentation : Model, str or dict
        Segmentation model.
    embedding : Model, str or dict
        Speaker embedding model.
    threshold : float
        Distance up to which clusters are joined (centroid linkage).
    min_cluster_size : int
        Clusters with fewer embeddings are given to the others.
    **options
        Other options of `pyannote.audio.pipelines.SpeakerDiarization`.
    """

    def __init__(
        self,
        segmentation: Model | str | dict,
        embedding: Model | str | dict,
        threshold: float = THRESHOLD,
        min_cluster_size: int = MIN_CLUSTER_SIZE,
        **options,
    ):
        super().__init__(
            segmentation=segmentation,
            embedding=embedding,
            clustering="AgglomerativeClustering",
            # upstream insists on a PLDA that agglomerative clustering never looks at
            plda=PLDA.__new__(PLDA),
            **options,
        )
        self.set_clustering(threshold=threshold, min_cluster_size=min_cluster_size)

    def set_clustering(self, threshold: float, min_cluster_size: int) -> None:
        """Change the two parameters of the clustering."""
        super().set_clustering(
            method="centroid", threshold=threshold, min_cluster_size=min_cluster_size
        )


class _ManyClusters(VBxClustering):
    """VBx that can find more than 127 clusters, and does not print where its bound falls.

    Upstream keeps labels in eight bits, which the many local speakers of a long recording
    overflow; bounds fall by rounding, once VBx has converged.
    """

    def __call__(self, *args, **options):
        with redirect_stdout(StringIO()):
            return super().__call__(*args, **options)

    def constrained_argmax(self, soft_clusters: np.ndarray) -> np.ndarray:
        """Give local speakers (chunks, speakers, clusters) of a chunk to different clusters."""
        soft_clusters = np.nan_to_num(soft_clusters, nan=np.nanmin(soft_clusters))
        hard_clusters = np.full(soft_clusters.shape[:2], -2)
        for chunk, scores in enumerate(soft_clusters):
            speakers, clusters = linear_sum_assignment(scores, maximize=True)
            hard_clusters[chunk, speakers] = clusters
        return hard_clusters


class VBxDiarization(ClusteredDiarization):
    """pyannote's speaker diarization with VBx clustering, the default of pyannote.audio 4.

    Parameters
    ----------
    segmentation : Model, str or dict
        Segmentation model.
    embedding : Model, str or dict
        Speaker embedding model.
    threshold, Fa, Fb : float
        Distance up to which clusters are joined before VBx, weight of the embeddings, and
        regularization of the number of speakers.
    plda : PLDA, str or dict
        PLDA of the embedding, as `pyannote_weighter.plda` makes it. Defaults to that of
        CAM++, estimated on the voices that the default Weighter has learned from.
    **options
        Other options of `pyannote.audio.pipelines.SpeakerDiarization`.

    References
    ----------
    Landini et al., "Bayesian HMM clustering of x-vector sequences (VBx) in speaker diarization",
    Computer Speech and Language 71, 2022; pyannote.audio has the mixture without time.
    """

    def __init__(
        self,
        segmentation: Model | str | dict,
        embedding: Model | str | dict,
        threshold: float = VBX_PARAMETERS["threshold"],
        Fa: float = VBX_PARAMETERS["Fa"],
        Fb: float = VBX_PARAMETERS["Fb"],
        plda: PLDA | str | dict = str(PLDA_FOLDER),
        **options,
    ):
        super().__init__(
            segmentation=segmentation,
            embedding=embedding,
            clustering="VBxClustering",
            plda=plda,
            **options,
        )
        self.clustering = _ManyClusters(self._plda, metric=self._embedding.metric)
        self.set_clustering(threshold=threshold, Fa=Fa, Fb=Fb)


class _EveryWindowOracle(OracleClustering):
    """Oracle clustering that also labels the last, incomplete window.

    Upstream's `oracle_segmentation` stops before it, so that nobody speaks in the tail of a
    file, and knows no window at all in a file that is shorter than one.
    """

    def __call__(self, segmentations: SlidingWindowFeature, file, **options):
        num_chunks = len(segmentations.data)
        windows = segmentations.sliding_window
        if not file["annotation"]:  # nobody speaks
            nobody = np.full((num_chunks, segmentations.data.shape[2]), -2, dtype=np.int8)
            return nobody, np.zeros((*nobody.shape, 0)), None
        # half a step more, against rounding: the next window would need a whole one
        duration = windows[num_chunks - 1].end + 0.5 * windows.step
        labelled = {"uri": file["uri"], "annotation": file["annotation"], "duration": duration}
        return super().__call__(
            segmentations=segmentations, file=labelled, **{**options, "embeddings": None}
        )


class OracleDiarization(StockDiarization):
    """Floor of whatever relabels the local speakers of the segmentation: true labels.

    Files must have a reference (`annotation`). Upstream's own
    `SpeakerDiarization(clustering="OracleClustering")` cannot be used: it never creates the
    embedding that it goes on to use. Labels need none, so none is computed here.
    """

    def __init__(self, segmentation: Model | str | dict, embedding: Model | str | dict, **options):
        super().__init__(segmentation, embedding, **options)
        self.clustering = _EveryWindowOracle(metric="not_applicable")
        self.klustering = "OracleClustering"
        self._expects_num_speakers = True

    def apply(self, file, *args, **options):
        """Diarize a file, see upstream; a file without a reference is an error (ValueError)."""
        if file.get("annotation") is None:
            raise ValueError(
                f"{file.get('uri')}: the oracle needs a reference: give the file an `annotation`"
            )
        return super().apply(file, *args, **options)

    def reconstruct(self, segmentations, hard_clusters, count) -> SlidingWindowFeature:
        """Build the diarization out of labels, where any local speaker has one."""
        if (hard_clusters < 0).all():
            return SlidingWindowFeature(np.zeros((len(count), 1)), count.sliding_window)
        return super().reconstruct(segmentations, hard_clusters, count)

    def get_embeddings(self, file, binary_segmentations, exclude_overlap=False, hook=None):
        """Compute nothing: oracle clustering looks at labels only."""
        return None


class FrameByFrameDiarization(StockDiarization):
    """The rival made by hand: the stock result, reassigned frame by frame without learning.

    Parameters
    ----------
    segmentation, embedding, threshold, min_cluster_size, **options
        The stock pipeline to start from.
    backbone : Backbone, str or dict
        Where the frames come from.
    assignment : FrameByFrame, optional
        Parameters of the assignment.
    window, step : float
        Frames are pooled over `window` seconds every `step` seconds.
    """

    CACHED_FRAMES = "training_cache/pooled_frames"

    def __init__(
        self,
        segmentation: Model | str | dict,
        embedding: Model | str | dict,
        backbone="campplus",
        assignment: FrameByFrame | None = None,
        window: float = 0.5,
        step: float = 0.1,
        **options,
    ):
        super().__init__(segmentation, embedding, **options)
        is_name = isinstance(backbone, str | dict)
        self._backbone = (get_backbone(backbone) if is_name else backbone).eval()
        self._assignment = assignment or FrameByFrame()
        self._window = window
        self._step = step

    def pooled_frames(self, file) -> SlidingWindowFeature:
        """Pool the frames of a file over short windows: (T, D), one row per `step`."""
        if self.training and self.CACHED_FRAMES in file:
            return file[self.CACHED_FRAMES]

        backbone = self._backbone
        frame_rate = backbone.sample_rate / backbone.frame_step
        step = max(1, round(self._step * frame_rate))
        window = step + 2 * round((self._window * frame_rate - step) / 2)
        with torch.inference_mode():
            waveform = load_waveform(file, backbone.sample_rate)  # (1, samples)
            frames = window_frames(backbone, waveform)[None].to(backbone.device)  # (1, frames, C)
            pooled = backbone.embed_windows(frames, torch.ones_like(frames[..., 0]), window, step)
        embeddings = pooled[0].cpu().numpy()  # (T, D)
        # row i is centred on frames i * step to (i + 1) * step
        hop = step * backbone.frame_step / backbone.sample_rate
        start = (backbone.receptive_field_size - backbone.frame_step) / 2 / backbone.sample_rate
        pooled = SlidingWindowFeature(embeddings, SlidingWindow(hop, hop, start))

        if self.training:
            file[self.CACHED_FRAMES] = pooled
        return pooled

    def apply(self, file, hook: Callable | None = None, **options) -> DiarizeOutput | Annotation:
        """Apply the stock pipeline, then give its frames to speakers anew.

        Hooks: those of the stock pipeline, then `frames` and `assignment`.
        """
        announce = self.setup_hook(file, hook=hook)
        steps = {}

        def keep(step, artifact, file=None, **progress):
            if step in ("speaker_counting", "discrete_diarization") and artifact is not None:
                # copied, for upstream goes on to change the data of its counts
                steps[step] = SlidingWindowFeature(artifact.data.copy(), artifact.sliding_window)
            announce(step, artifact, **progress)

        output = super().apply(file, hook=keep, **options)
        if "discrete_diarization" not in steps:  # nobody ever speaks
            return output

        start, count = steps["discrete_diarization"], steps["speaker_counting"]
        pooled = self.pooled_frames(file)
        announce("frames", pooled)

        num_pooled, grid = len(pooled.data), pooled.sliding_window
        posteriors = self._assignment(
            pooled.data,
            sample_nearest(start, grid, num_pooled),
            sample_nearest(count, grid, num_pooled)[:, 0].astype(int),
            step=grid.step,
        )  # (T, K')
        frames, num_frames = start.sliding_window, len(start.data)
        fine = sample_nearest(SlidingWindowFeature(posteriors, grid), frames, num_frames)
        count = sample_nearest(count, frames, num_frames)[:, 0].astype(int)
        announce("assignment", fine)

        diarization = self._annotate(fine, count, frames, file["uri"])
        if self.legacy:
            return diarization
        return DiarizeOutput(
            speaker_diarization=diarization,
            exclusive_speaker_diarization=self._annotate(
                fine, np.minimum(count, 1), frames, file["uri"]
            ),
        )

    def _annotate(self, posteriors, count, frames, uri) -> Annotation:
        """Turn posteriors (frames, K) and counts (frames,) into an annotation."""
        active = SlidingWindowFeature(1.0 * top_speakers(posteriors, count), frames)
        diarization = self.to_annotation(
            active, min_duration_on=0.0, min_duration_off=self.segmentation.min_duration_off
        )
        diarization.uri = uri
        # named by index, so that a speaker without a turn does not shift the others
        return diarization.rename_labels(dict(enumerate(speaker_names(posteriors.shape[1]))))


def pretrained_models() -> dict[str, Model]:
    """Load segmentation-3.0 and CAM++, as arguments for the pipelines of this module."""
    return {
        "segmentation": Model.from_pretrained(segmentation_path()),
        "embedding": CAMPPlus.from_pretrained_weights(),
    }


def load_stock(
    threshold: float = THRESHOLD,
    min_cluster_size: int = MIN_CLUSTER_SIZE,
    device: torch.device | str = "cpu",
) -> StockDiarization:
    """Load the stock pipeline, on segmentation-3.0 and CAM++."""
    pipeline = StockDiarization(
        **pretrained_models(), threshold=threshold, min_cluster_size=min_cluster_size
    )
    return pipeline.to(torch.device(device))


def load_baselines(
    device: torch.device | str = "cpu",
    share_frames: bool = False,
) -> dict[str, ClusteredDiarization]:
    """Load all baselines, on the same segmentation-3.0 and CAM++.

    They keep segmentation, embeddings and frames in the file (`training` is set): give each of
    them the same dictionary, in the order in which they are returned.

    Clusterings have the parameters that were best on other voices; `set_clustering` changes them.

    Parameters
    ----------
    device : torch.device or str
    share_frames : bool, optional
        Compute the frames of a window once for all its speakers. Embeddings are the same up to
        rounding; what they cost is then no longer what stock costs.

    Returns
    -------
    baselines : dict
        `stock`, `VBx`, `oracle`, `frame by frame` and `frame by frame, over-split` to pipelines.
    """
    models = pretrained_models()
    models["embedding"].shares_frames = share_frames
    backbone = get_backbone("campplus").to(device)
    over_split = {"threshold": 0.5, "min_cluster_size": 1}

    baselines = {
        "stock": StockDiarization(**models),
        "VBx": VBxDiarization(**models),
        "oracle": OracleDiarization(**models),
        "frame by frame": FrameByFrameDiarization(**models, backbone=backbone),
        "frame by frame, over-split": FrameByFrameDiarization(
            **models,
            **over_split,
            backbone=backbone,
            assignment=FrameByFrame(rounds=5, merge=0.65, min_duration=1.5),
        ),
    }
    for pipeline in baselines.values():
        pipeline.training = True
        if share_frames:  # upstream's batches of one have nothing to share
            pipeline.embedding_batch_size = BATCH_SIZE
        pipeline.to(torch.device(device))
    return baselines
