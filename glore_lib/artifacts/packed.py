"""Runs that travel: a run's artifacts in one archive without weights, and their way into another artifacts folder.

Of a model, the archive has the record, which is all that its id and its training need to be read; of the base model,
unless it ships with the package, its description: configuration, tokenizer, and what identifies its weights. In its
new place such an artifact is an input as any other. Only its weights cannot be opened.

An archive is a gzipped tar file. Its first member, :data:`CONTENTS`, has the SHA-256 of each of the others. Equal
artifacts give equal bytes.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import BinaryIO

from glore_lib.artifacts.locks import only_run
from glore_lib.artifacts.manifest import stage_record, stage_record_path, stage_records
from glore_lib.artifacts.records import (
    LEFT_OUT,
    RECORD,
    RETRAIN,
    WEIGHTS,
    StoreError,
    left_out,
    verify_record,
    write,
)
from glore_lib.artifacts.store import Artifact
from glore_lib.params import Params, ParamsError, digest

CONTENTS = "contents.json"
FORMAT = 1
DESCRIPTION = "base-model"  # name of the artifact that describes a base model
STAGE_RECORDS = "stages"
DAMAGED = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, KeyError, TypeError, AttributeError)


def pack(root: Path, runs: Sequence[Params], archive: Path) -> list[Artifact]:
    """Write all artifacts of some runs in the folder ``root`` to an archive, without weights; return them.

    Raises :class:`ParamsError` if one of the runs has no artifacts, or if an artifact is missing or damaged.
    """
    files: dict[str, bytes | Path] = {}
    ids: dict[str, None] = {}
    for params in runs:
        records = stage_records(root, params)
        if not records:
            asked = f"has nothing of run {params.run} with these parameters and seed {params.seed}"
            raise ParamsError(f"artifacts {root}: {asked}; glore compute makes it")
        ids |= dict.fromkeys(records)
        for path in stage_record_path(root, params, "any").parent.glob("*.json"):
            files[path.relative_to(root).as_posix()] = path
    with only_run(root):
        for id in ids:
            files |= {f"{id}/{name}": content for name, content in _contents(root / id).items()}
        _write(archive, {name: files[name] for name in sorted(files)}, runs)
    return [Artifact(root / id) for id in ids]


def _contents(folder: Path) -> dict[str, bytes | Path]:
    """Return what is packed of an artifact: of a model its record, and the names of the files that are left out."""
    try:
        files = verify_record(folder)["files"]
    except StoreError as damage:
        raise ParamsError(f"artifacts {folder.parent}: {damage}; glore compute makes it again") from None
    is_description = folder.name.startswith(f"{DESCRIPTION}-")
    absent = ["model" + WEIGHTS] if is_description else sorted(files)
    if not is_description and not any(name.endswith(WEIGHTS) for name in files):
        return {RECORD: folder / RECORD} | {name: folder / name for name in files}
    kept: dict[str, bytes | Path] = {name: folder / name for name in files} if is_description else {}
    return kept | {RECORD: folder / RECORD, LEFT_OUT: json.dumps(absent).encode()}


def _write(archive: Path, files: dict[str, bytes | Path], runs: Sequence[Params]) -> None:
    def read(content: bytes | Path) -> bytes:
        return content.read_bytes() if isinstance(content, Path) else content

    about = {
        "format": FORMAT,
        "runs": [{"run": p.run, "seed": p.seed, "params_hash": p.digest()} for p in runs],
        "files": {name: hashlib.sha256(read(content)).hexdigest() for name, content in files.items()},
    }
    temporary = archive.with_name(f".{archive.name}")
    try:
        with (
            temporary.open("wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as tar,
        ):
            for name, content in {CONTENTS: json.dumps(about, indent=1).encode(), **files}.items():
                member, data = tarfile.TarInfo(name), read(content)  # its time, owner and mode are constants
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        temporary.replace(archive)
    finally:
        temporary.unlink(missing_ok=True)


def unpack(parts: Sequence[Path], root: Path) -> tuple[list[str], list[str]]:
    """Add the artifacts in an archive to the folder ``root``; return the ids of the new ones and of those it had.

    ``parts`` are the archive, or the pieces that it was cut into, in order. Nothing is changed if this raises
    :class:`ParamsError`: because the archive is damaged, or the folder has another artifact of the same id.
    """
    with (
        closing(_joined(parts)) as stream,
        only_run(root),
        TemporaryDirectory(prefix=".unpack-", dir=root) as scratch,
    ):
        folder, name = Path(scratch), " ".join(map(str, parts))
        try:
            _extract(stream, folder)
            ids = [path.name for path in sorted(folder.iterdir()) if path.name not in (CONTENTS, STAGE_RECORDS)]
            for id in ids:
                record = verify_record(folder / id)
                if id != f"{record['name']}-{digest(record['key'])}":
                    raise ValueError(f"{id} holds another artifact")
            staged = {path.relative_to(folder): dict(stage_record(path) or {}) for path in folder.glob("stages/*/*")}
        except (*DAMAGED, StoreError) as damage:
            why = f"is no archive of glore pack, or is damaged ({' '.join(str(damage).split())}); copy it again"
            raise ParamsError(f"archive {name}: {why}") from None
        present = [id for id in ids if (root / id).exists()]
        for id in present:
            _check_same(root / id, folder / id)
        new = [id for id in ids if id not in present]
        for id in new:
            (folder / id).replace(root / id)
        for path, artifacts in staged.items():
            known = stage_record(root / path) or {}
            if artifacts.keys() - known.keys():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                write(root / path, json.dumps({"artifacts": artifacts | known}, indent=1))
        return new, present


def _joined(parts: Sequence[Path]) -> BinaryIO:
    """Open an archive, or the pieces of one."""
    for part in parts:
        if not part.is_file():
            raise ParamsError(f"archive {part}: no such file")
    if len(parts) == 1:
        return parts[0].open("rb")
    return io.BytesIO(b"".join(part.read_bytes() for part in parts))


def _extract(stream: BinaryIO, folder: Path) -> None:
    """Extract an archive to an empty folder; raise one of :data:`DAMAGED` if it is not what its contents say."""
    with tarfile.open(fileobj=stream, mode="r:gz") as tar:
        members = _members(tar)
        first, data = next(members, ("", b""))
        if first != CONTENTS:
            raise ValueError(f"it does not begin with {CONTENTS}")
        contents = json.loads(data)
        if contents["format"] != FORMAT:
            raise ValueError(f"its format is {contents['format']}, and this version reads {FORMAT}")
        expected = dict(contents["files"])
        for name, data in members:
            if hashlib.sha256(data).hexdigest() != expected.pop(name):
                raise ValueError(f"{name} was modified")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if expected:
            raise ValueError(f"{min(expected)} is missing")


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file; raise ValueError for what is no file, or would lie elsewhere."""
    for member in tar:
        parts = PurePosixPath(member.name).parts
        odd = any(part.startswith(".") or set(part) & set("\\:") for part in parts) or member.name != "/".join(parts)
        if not member.isreg() or odd or (len(parts) < 2 and member.name != CONTENTS):
            raise ValueError(f"{member.name!r} is no file of an artifact")
        yield member.name, tar.extractfile(member).read()  # type: ignore[union-attr]


def _check_same(here: Path, packed: Path) -> None:
    """Raise ParamsError if two artifacts of one id do not hold the same files; of models, the same weights.

    Other files of a model may name the version of a library.
    """
    try:
        before, found = verify_record(here)["files"], verify_record(packed)["files"]
        weights = {name for name in before | found if name.endswith(WEIGHTS)}
        if here.name.startswith(f"{DESCRIPTION}-") or all(
            before.get(name) == found.get(name) for name in weights or before | found
        ):
            return
        why = f"has another {here.name}, computed elsewhere; unpack into another folder with --artifacts"
    except StoreError as damage:
        why = f"{damage}; remove it, and unpack again"
    raise ParamsError(f"artifacts {here.parent}: {why}")


def without_weights(root: Path) -> list[str]:
    """Return the ids of the artifacts in a folder whose weights were left out."""
    return sorted(path.parent.name for path in root.glob(f"*/{LEFT_OUT}") if left_out(path.parent))


def is_packed(root: Path, params: Params) -> bool:
    """Return whether a run was unpacked without weights: then nothing is trained or sampled, unless that is asked for.

    Its packages and its base model need not be on this machine.
    """
    return not os.environ.get(RETRAIN) and any(left_out(root / id) for id in stage_records(root, params))


def packed_base(root: Path, params: Params) -> Artifact | None:
    """Return the unpacked description of a run's base model, if there is one.

    Raises :class:`ParamsError` if there are several for the same ``base_model.source``, and the run used none of them.
    """
    folders = [folder for id in without_weights(root) if id.startswith(f"{DESCRIPTION}-") for folder in [root / id]]
    source = params.base_model.source
    found = [artifact for artifact in map(Artifact, folders) if artifact.record["info"]["source"] == source]
    if len(found) > 1:
        used = stage_records(root, params)
        found = [artifact for artifact in found if artifact.id in used]
        if len(found) != 1:
            remedy = "use a folder of artifacts for each"
            raise ParamsError(
                f"artifacts {root}: base_model.source = {source!r} was another model in two runs; {remedy}"
            )
    return found[0] if found else None
