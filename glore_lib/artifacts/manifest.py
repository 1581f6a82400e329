"""Read the manifest of a results folder and the stage records beside the artifacts."""

import json
from pathlib import Path
from typing import Any

from glore_lib.params import Params, ParamsError


def stage_record_path(root: Path, params: Params, stage: str) -> Path:
    """Where the last cell of a run's notebook leaves the list of its artifacts (:meth:`glore_lib.run.Run.finish`)."""
    return root / "stages" / f"{params.run}-{params.digest()}" / f"{Path(stage).name}.json"


def stage_record(path: Path) -> dict[str, Any] | None:
    """The artifacts in such a list by their names; None where there is none, or where it is damaged."""
    try:
        return json.loads(path.read_text())["artifacts"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


MANIFEST, REPORT = "manifest.json", "report.html"


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of an output folder; raises :class:`ParamsError` where there is none that can be read."""
    path = out / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return manifest | {"runs": manifest["runs"], "stages": manifest["stages"]}
    except FileNotFoundError:
        raise ParamsError(f"output folder {out}: has no {MANIFEST}; glore run writes one") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise ParamsError(f"{path}: is no manifest of glore; use another folder, or --fresh to replace it") from None
