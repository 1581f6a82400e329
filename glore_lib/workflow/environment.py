"""Prepare and describe what a run is made with: the user's home, the commit, package versions and hardware."""

import atexit
import getpass
import os
import platform
import re
import shutil
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil
from packaging.requirements import Requirement

from glore_lib.params import ROOT, SHIPPED
from glore_lib.threads import cores


def provide_home() -> None:
    """Give this process, and those that it starts, a temporary home and a user name where there are none to use.

    Containers run under user ids that have neither, and Jupyter, matplotlib and torch rely on them.
    """
    home = os.path.expanduser("~")  # noqa: PTH111  # Path.home() raises where there is none
    if not os.access(home, os.W_OK):
        cache = Path(home, ".cache", "huggingface")
        if cache.is_dir() and "XDG_CACHE_HOME" not in os.environ:
            os.environ.setdefault("HF_HOME", str(cache))
        os.environ["HOME"] = mkdtemp(prefix="glore-home-")
        atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user-{os.getuid()}"


def git() -> dict[str, Any]:
    """Return the commit of the clone, and whether files that results depend on differ from it; empty outside one."""
    if SHIPPED.is_dir():  # another project's repository may hold the installed package
        return {}

    def ask(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.strip()

    try:
        changes = ask("status", "--porcelain", "--", "glore_lib", "notebooks", "params", "requirements.lock")
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.CalledProcessError):
        return {}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that this one requires."""
    found = {"python": platform.python_version()}
    for name in sorted({Requirement(line).name for line in metadata.requires("glore_lib") or []}):
        with suppress(metadata.PackageNotFoundError):  # of an extra that is not installed
            found[name] = metadata.version(name)
    return found


def hardware() -> dict[str, Any]:
    """Return the processor, cores, memory, GPUs and system of this machine."""
    gpus: list[str] = []
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        gpus = subprocess.run(query, capture_output=True, encoding="utf-8", check=False).stdout.splitlines()
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return {
        "cpu": model[1].strip() if model else platform.processor() or platform.machine(),
        "cpus": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }
