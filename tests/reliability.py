"""Turn what the tests tried into the table of docs/reliability.md.

    GLORE_RELIABILITY=tried.json pytest && python tests/reliability.py tried.json

Tests report what they tried through the fixture ``reliability``, after their assertions. Several test sessions may
write to one file: the rows of a fault are those of the last one that tried it.
"""

import json
import sys
from collections import Counter
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
COLUMNS = ("fault or bad input", "tried", "outcome", "lost")


class Tried(Counter):
    """Count how often each (fault, outcome, lost) was observed."""

    def __call__(self, fault: str, outcome: str, lost: str = "nothing", tried: int = 1) -> None:
        self[fault, outcome, lost] += tried

    def save(self, path: Path) -> None:
        faults = {fault for fault, _, _ in self}
        known = json.loads(path.read_text()) if path.exists() else []
        rows = [row for row in known if row[0] not in faults]
        rows += [[fault, count, outcome, lost] for (fault, outcome, lost), count in self.items()]
        path.write_text(json.dumps(sorted(rows), indent=0))


def page_with(page: str, rows: list[list]) -> str:
    """Return the page with its table, between its two marks, replaced."""
    from glore_lib.reporting.quoted_tables import filled  # imports torch, which most tests need not wait for

    lines = [COLUMNS, ("---", "---:", "---", "---"), *((f, f"{n:,}", o, lost) for f, n, o, lost in rows)]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    table = "\n".join(f"| {' | '.join(line)} |" for line in cells)
    return filled(page, "tried", table)


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(), json.loads(Path(sys.argv[1]).read_text())))
