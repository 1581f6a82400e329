"""Do runs side by side: each in a process of its own, with its share of the cores.

Small models gain little from a second thread: two processes of one thread each do 1.5 times the work of one process of
two threads (docs/performance.md).
"""

import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import connection, context, get_context, parent_process
from typing import Any

from glore_lib.params import Params, ParamsError
from glore_lib.threads import cores
from glore_lib.workflow import StageError
from glore_lib.workflow.environment import hardware

Tell = Callable[..., None]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def default_jobs(runs: Sequence[Params]) -> int:
    """Return how many runs to do side by side: all, if each gets a core and none uses a GPU, Ray, vLLM or processes."""
    alone = any(p.sampling.ray or p.sampling.backend == "vllm" or p.finetuning.processes > 1 for p in runs)
    return 1 if alone or len(runs) == 1 or hardware()["gpus"] else min(len(runs), cores())


def side_by_side(
    parts: Sequence[Callable[[Tell], object]], jobs: int, tell: Callable[..., None],
    helpers: Sequence[Callable[[Tell], object]] = (),
) -> None:  # fmt: skip
    """Call each part in a process of its own, at most ``jobs`` at a time, which share the cores.

    A part is given a function; ``tell`` is called here with its arguments, after the part's index. If parts fail, the
    others go on, and the first error is raised at the end. Whatever interrupts this process interrupts the parts.

    ``helpers``, if any, has a function for each part. Where no part waits and a process is free, that of a part which
    still runs is called beside it; what it tells or raises is dropped, and it ends with the parts.
    """
    processes = get_context("fork")  # before this process has used threads of OpenMP, which a fork would not have
    waiting, errors = deque(enumerate(parts)), list[Exception]()
    running: dict[Any, tuple[int | None, context.ForkProcess]] = {}  # None: a helper
    unhelped = dict(enumerate(helpers))
    try:
        while waiting or any(number is not None for number, _ in running.values()):
            while len(running) < jobs:
                number: int | None = None
                if waiting:
                    number, part = waiting.popleft()
                elif slow := [n for n, _ in running.values() if n in unhelped]:
                    part = unhelped.pop(slow[0])
                else:
                    break
                receiving, sending = processes.Pipe(duplex=False)
                process = processes.Process(target=_work, args=(part, sending, max(1, cores() // jobs)))
                process.start()
                sending.close()
                running[receiving] = number, process
            for pipe in connection.wait([*running]):
                number, process = running[pipe]
                try:
                    told = pipe.recv()  # type: ignore[call-arg, union-attr]
                except EOFError:
                    process.join()
                    del running[pipe]
                    if process.exitcode and number is not None:
                        errors.append(StageError(f"a process of its own failed with exit code {process.exitcode}"))
                    continue
                if number is None:
                    continue
                if isinstance(told, Exception):
                    errors.append(told)
                else:
                    tell(number, *told)
    finally:
        for _, process in running.values():
            os.kill(process.pid, signal.SIGINT)  # type: ignore[arg-type]
        for _, process in running.values():
            process.join()
    if errors:
        raise errors[0]


def _work(part: Callable[[Tell], object], pipe: connection.Connection, threads: int) -> None:
    """Do one part in this process, which ends with its parent."""
    os.setpgrp()  # Ctrl-C in a terminal reaches the parent alone, which interrupts this process
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    parent = parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()  # type: ignore[union-attr]
    if not os.environ.keys() & {*THREADS}:
        os.environ |= dict.fromkeys(THREADS, str(threads))  # for what has not loaded torch, such as kernels
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(threads)
    try:
        part(lambda *told: pipe.send(told))
    except (StageError, ParamsError) as error:
        pipe.send(error)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        traceback.print_exc()
        pipe.send(StageError(f"failed: {type(error).__name__}: {error}"))
