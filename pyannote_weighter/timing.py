"""CPU time of the steps of a pipeline, by listening to its hook."""

import time


class StepTimer:
    """Hook that adds up the CPU time of each step.

    What passes between two calls of the hook is put down to the step that the later one names,
    as pipelines call it when a step is done (or has progressed). CPU time of this process, all
    threads together.

    Usage
    -----
    >>> timer = StepTimer()
    >>> output = pipeline(file, hook=timer)
    >>> timer.finish("annotation")  # whatever came after the last call
    >>> timer.seconds
    {'segmentation': 3.1, 'embeddings': 40.2, ..., 'annotation': 0.1}
    """

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def __call__(self, step, artifact=None, file=None, total=None, completed=None):
        """Put the time since the last call down to `step`."""
        now = time.process_time()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._last
        self._last = now

    def finish(self, step: str) -> None:
        """Put the time since the last call down to `step`, which has no call of its own."""
        self(step)
