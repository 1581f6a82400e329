"""Read what a run leaves behind: manifests of run and comparison folders, and stage records beside the artifacts."""

import json
from pathlib import Path
from typing import Any

from glore_lib.params import Params, ParamsError

MANIFEST, REPORT, RUN_FILE = "manifest.json", "report.html", "run.json"
SEEDS = "seeds"  # folder in a run folder, with a folder named by each further seed
OTHER_WEIGHTS = "other weights"  # in the info of a model that was trained again
TOO_MANY_LOST = 0.1  # share of a training's sequences that may be too long without a warning


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a run or comparison folder; raise :class:`ParamsError` if it is missing or damaged.

    That of a run has ``run``, ``params_hash`` and ``params``; that of a comparison has ``runs``: by name, each run's
    ``folder`` (relative to the comparison folder), ``params_hash`` and ``code_hash``. Both have ``stages``.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        runs = manifest["runs"].values() if "runs" in manifest else []
        _ = [Path(run["folder"]) for run in runs], list(manifest["stages"])
        _ = [manifest[name] for name in ("run", "params_hash", "params") if "runs" not in manifest]
        return manifest
    except FileNotFoundError:
        raise ParamsError(f"folder {folder}: has no {MANIFEST}; glore run writes one") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ParamsError(f"{path}: is no manifest of glore; use another folder, or --fresh to replace it") from None


def run_folders(comparison: Path) -> list[Path]:
    """Return the run folders that a comparison folder was built from; raise as :func:`read_manifest` does."""
    manifest = read_manifest(comparison)
    if "runs" not in manifest:
        raise ParamsError(f"folder {comparison}: holds the run {manifest['run']}; give the folder of a comparison")
    return [comparison / run["folder"] for run in manifest["runs"].values()]


def seed_folders(run: Path) -> list[Path]:
    """Return the folders of a run's further seeds whose results are there, in the order of the seeds."""
    folders = [path.parent for path in run.glob(f"{SEEDS}/*/{RUN_FILE}") if path.parent.name.isdecimal()]
    return sorted(folders, key=lambda folder: int(folder.name))


def folder_name(run: Path) -> str:
    """Return the name of a run folder; of a seed's folder, that of its run and the seed, such as "mini-hard-seed-1"."""
    *_, of, parent, name = ("", "", *run.resolve().parts)
    return f"{of}-seed-{name}" if parent == SEEDS else name


def stage_record_path(root: Path, params: Params, stage: str) -> Path:
    """Return the path of the list of artifacts that a notebook's last cell writes (see ``Run.finish``)."""
    return root / "stages" / f"{params.run}-{params.digest()}" / f"{Path(stage).name}.json"


def stage_records(root: Path, params: Params) -> dict[str, Any]:
    """Return the artifacts of all stages of a run by their names."""
    paths = sorted(stage_record_path(root, params, "any").parent.glob("*.json"))
    return {name: record for path in paths for name, record in (stage_record(path) or {}).items()}


def training_warnings(records: dict[str, Any]) -> list[str]:
    """Return a sentence for each model among some artifacts that learned from too little, or was trained again."""
    found = []
    for id, info in ((id, record["info"]) for id, record in records.items()):
        name, total = id.rpartition("-")[0], info.get("sequences", 1) + info.get("too_long", 0)
        if total == 0:
            found.append(f"{name} stays untrained: there was nothing to learn from.")
        elif info.get("too_long", 0) > TOO_MANY_LOST * total:
            lost = f"{info['too_long']:,} of {total:,} sequences ({info['too_long'] / total:.0%})"
            found.append(f"{name} was trained without {lost}: they are longer than finetuning.max_length.")
        if info.get("trained_again") == OTHER_WEIGHTS:
            found.append(
                f"{name} was trained again: its stored answers and scores are of weights that differ from these."
            )
    return found


def stage_record(path: Path) -> dict[str, Any] | None:
    """Return the artifacts in a stage record by their ids; None where it is missing or damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["artifacts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def duration(seconds: float) -> str:
    """Return seconds in the largest fitting unit: "45 s", "13.4 min", "57.1 h" or, from three days on, "4.2 days"."""
    units = ((72 * 3600, 24 * 3600, "days"), (3600, 3600, "h"), (60, 60, "min"))
    return next((f"{seconds / unit:.1f} {name}" for least, unit, name in units if seconds >= least), f"{seconds:.0f} s")
