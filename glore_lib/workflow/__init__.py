"""Execute the notebooks of runs, record how results were made, and check them."""

from pathlib import Path


class StageError(RuntimeError):
    """A stage that failed. ``partial`` holds a notebook's cells up to the failing one; ``killed``: its kernel died."""

    def __init__(self, failure: str, partial: Path | None = None, killed: bool = False):
        super().__init__(failure, partial)
        self.failure, self.partial, self.killed = failure, partial, killed

    def __str__(self) -> str:
        return f"{self.failure}; rendered so far: {self.partial}" if self.partial else self.failure
