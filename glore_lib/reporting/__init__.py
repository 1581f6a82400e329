"""Tables, figures, findings, scoreboard, report, worked examples and explorer of computed runs."""

from pathlib import Path

import pandas as pd
from jinja2 import Environment, Template

ASSETS = Path(__file__).resolve().parents[1] / "assets"

# Frames in notebooks show every column and the whole text, and "$5 for 2 and $9 for 4" is no formula.
pd.set_option("display.max_columns", None, "display.max_colwidth", None, "display.html.use_mathjax", False)


def read_asset(name: str) -> pd.DataFrame:
    """Read a CSV file of :data:`ASSETS`; empty fields are empty texts."""
    return pd.read_csv(ASSETS / name, keep_default_na=False, dtype=str)


def read_template(name: str) -> Template:
    """Read an HTML template of :data:`ASSETS`, which escapes all that is filled in."""
    return Environment(autoescape=True).from_string((ASSETS / name).read_text(encoding="utf-8"))
