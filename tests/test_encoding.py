"""Texts are UTF-8 in any locale: what is read and written, the keys, and what a terminal can show of it."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clone import TINY
from glore_lib.artifacts import keys
from glore_lib.params import load_params

ROOT = Path(__file__).parents[1]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def without_encoding(path: Path) -> Iterator[str]:
    """Yield the calls in a module that read or write text in the locale's encoding."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        modes = [part.value for part in [*node.args[:2], *(k.value for k in node.keywords if k.arg == "mode")]
                 if isinstance(part, ast.Constant)]  # fmt: skip
        owner = getattr(node.func, "value", None)
        opens_files = getattr(owner, "attr", getattr(owner, "id", "")) not in ("tarfile", "store")
        of_text = name == "open" and opens_files and not any("b" in str(mode) for mode in modes)
        as_text = any(k.arg in ("text", "universal_newlines") for k in node.keywords) and name in (
            "run",
            "Popen",
            "check_output",
        )
        if name in ("read_text", "write_text") or of_text or as_text:
            yield f"{path.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.parametrize("folder", ["glore_lib", "benchmarks"])
def test_every_text_file_is_opened_as_utf_8(folder):
    assert [call for path in sorted((ROOT / folder).rglob("*.py")) for call in without_encoding(path)] == []


def test_calls_without_an_encoding_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    lines = {
        "p.read_text()": 1, "p.write_text('x', encoding='utf-8')": 0, "p.open()": 1, "p.open('rb')": 0,
        "open(p, 'w')": 1,
        "open(p, mode='wb')": 0, "run(c, text=True)": 1, "run(c)": 0, "tarfile.open(p)": 0, "run.store.open(a)": 0,
    }  # fmt: skip
    (tmp_path / "module.py").write_text("\n".join(lines), encoding="utf-8")
    found = list(without_encoding(tmp_path / "module.py"))
    assert found == [f"module.py:{n}" for n, bad in enumerate(lines.values(), start=1) if bad]


@pytest.mark.parametrize("environment", [ASCII, {"PYTHONIOENCODING": "iso-8859-1"}])
def test_keys_and_output_do_not_depend_on_the_locale(tmp_path, reliability, environment):
    params = tmp_path / "params.yaml"
    text = TINY.read_text(encoding="utf-8").replace("A tiny task for tests", "Eine Aufgabe für Prüfungen, 3 × 4 ≥ 5")
    params.write_text(text, encoding="utf-8")
    stage = {"stage": "01_expert_iteration", "status": "failed", "error": "3 × 4 ≥ 5", "partial": "x"}
    manifest = {"run": "tiny", "params_hash": "0", "params": {}, "status": "failed", "seconds": 1, "stages": [stage]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
    program = (
        "import sys\nfrom glore_lib.artifacts import keys\nfrom glore_lib.cli import app\n"
        "from glore_lib.params import load_params\n"
        "print(keys.code_hash(), load_params(sys.argv[1]).digest())\napp(['status', sys.argv[2]])"
    )
    command = [sys.executable, "-c", program, params, tmp_path]
    shown = subprocess.run(command, env=os.environ | environment, capture_output=True, check=False)
    assert (shown.returncode, shown.stderr) == (0, b"")
    hashes, *_, error, last = shown.stdout.decode("iso-8859-1").splitlines()
    assert hashes == f"{keys.code_hash()} {load_params(params).digest()}"
    times = "?" if environment == ASCII else "×"
    assert error == f"3 {times} 4 ? 5; rendered so far: {tmp_path / 'x'}"
    assert last == "failed, 0:00:01 of work"
    reliability("a locale other than UTF-8", "the same keys; `?` for what the terminal cannot show")
