"""Execute the notebooks of runs, record how results were made, and check them."""

from pathlib import Path


class StageError(RuntimeError):
    """A notebook that did not run to its end: one line with its name, its cell, the error and what is kept of it."""

    def __init__(self, failure: str, partial: Path):
        super().__init__(f"{failure}; rendered so far: {partial}")
        self.failure = failure
