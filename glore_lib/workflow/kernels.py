"""The kernels of a run's notebooks: copies of one process, which has imported what the notebooks import.

These imports take longer than all else that a notebook costs beside its work, and so are done once a run. Where that
can't be had, each kernel is a fresh process: outside Linux, with a GPU (CUDA does not survive a copy), after a change
of the library's source, and where anything about the copies fails.
"""

import importlib
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

LIBRARY = Path(__file__).resolve().parents[1]
IMPORTS = ("torch", "glore_lib.reporting.tables", "ipykernel.kernelapp", "ipykernel.ipkernel")
PATIENCE = 600  # seconds for the imports on a busy machine


@contextmanager
def kernels(folder: Path, copies: bool) -> Iterator[type[AsyncKernelManager]]:
    """The class of the kernels that are to run in ``folder``; at the end all copies are gone."""
    original = Original(folder) if copies and sys.platform == "linux" else None
    try:
        yield type("Kernel", (Kernel,), {"original": original})
    finally:
        if original:
            original.end()


class Kernel(AsyncKernelManager):
    """The kernel of the running interpreter, whatever other kernels are registered under its name; encrypted, for
    other users of the machine can reach its ports."""

    original: "Original | None" = None

    def _transport_encryption_default(self) -> str:
        return "auto"

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        cwd = options.get("cwd") or Path.cwd()  # papermill goes there
        copy = self.original.copy(kernel_cmd, options["env"], cwd) if self.original else None
        if copy is None:
            await super()._async_launch_kernel(kernel_cmd, **options)
            return
        local = self.provisioner
        local.process, local.pid, local.pgid, local.cwd = copy, copy.pid, copy.pid, cwd
        self._reconcile_connection_info(local.connection_info)


class Original:
    """The process that is copied. It ends with this one, even if that is killed, and ends the copy that then runs."""

    def __init__(self, folder: Path):
        self.talk, theirs = Pipe()
        self.started, self.last = time.time(), None
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "glore_lib.workflow.kernels", str(theirs.fileno()), *IMPORTS],
                cwd=folder, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip

    def copy(self, command: list[str], env: dict[str, str], cwd: Path) -> "Copy | None":
        """A copy that is now the kernel of a command line; None where there is none to be had."""
        if self.last and self.last.poll() is None:
            return None  # one at a time
        if any(path.stat().st_mtime > self.started for path in LIBRARY.rglob("*.py")):
            self.end()  # artifacts' keys tell the source as it is now, not as it was imported
        if self.talk.closed or command[:2] != [sys.executable, "-m"]:
            return None
        try:
            self.talk.send((command[2:], env, str(cwd)))
            word, pid = self.talk.recv() if self.talk.poll(PATIENCE) else ("late", 0)
        except (EOFError, OSError):
            word, pid = "ended", 0
        if word != "pid":
            self.end()
            return None
        self.last = Copy(self.talk, pid)
        return self.last

    def end(self) -> None:
        """Ends the original and the kernel that is its last copy."""
        if self.last and self.last.poll() is None:
            self.last.kill()
            self.last.returncode = -signal.SIGKILL
        self.talk.close()
        self.process.kill()
        self.process.wait()


class Copy:
    """What jupyter_client takes for a :class:`subprocess.Popen`."""

    stdin = stdout = stderr = returncode = None

    def __init__(self, talk: Connection, pid: int):
        self.talk, self.pid = talk, pid

    def poll(self, seconds: float | None = 0) -> int | None:
        """The kernel's exit code, waiting at most so many ``seconds`` (None: as long as it takes) for it; None while
        it runs, and -9 where the original is gone."""
        if self.returncode is None:
            try:
                if self.talk.poll(seconds):
                    _, self.returncode = self.talk.recv()
            except (EOFError, OSError):  # the original is gone
                self.returncode = -signal.SIGKILL
                self.send_signal(signal.SIGKILL)
        return self.returncode

    def wait(self) -> int:
        """Waits for the kernel to end; its exit code."""
        return self.poll(None)

    def send_signal(self, number: int) -> None:
        """Sends a signal to the kernel and the processes that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


def main() -> None:
    """What the original does. Where it can't do it, it ends, and the kernels' own imports tell what is wrong."""
    talk, modules = Connection(int(sys.argv[1])), sys.argv[2:]
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # read at import; a kernel without its parent ends
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # read at import too; a kernel's default
    try:
        for module in modules:
            importlib.import_module(module)
            if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
                return
    except Exception:
        return
    while True:
        try:
            (module, *arguments), env, cwd = talk.recv()
        except EOFError:
            return  # the run has ended
        pid = os.fork()
        if not pid:
            os.setsid()  # as jupyter_client's own kernels: signals go to all that a notebook has started
            talk.send(("pid", os.getpid()))
            talk.close()
            os.chdir(cwd)
            os.environ.clear()
            os.environ.update(env | {"JPY_PARENT_PID": str(os.getppid())})
            sys.argv[1:] = arguments
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            sys.exit()
        # It is not waited for before its end is told: until then no other process gets its number.
        while not (ended := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
            if talk.poll(0.05):
                os.killpg(pid, signal.SIGKILL)  # the run has ended
                return
        talk.send(("code", ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status))
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
