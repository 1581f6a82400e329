"""Fine-tune a model and save it, in this process or in several that torchrun starts.

A fork of a notebook's process could not use CUDA once that process has. torchrun therefore starts new processes, each
of which runs this module: it builds the model and trains it with :func:`glore_lib.models.training.train`, whose Trainer
divides the work with accelerate. The first process saves the model.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import TypeAdapter
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.tensor import DTensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from glore_lib.models import training
from glore_lib.models.language_model import LanguageModel
from glore_lib.models.loading import adapt, load_model, save_model
from glore_lib.models.reward_head import RewardModel
from glore_lib.params import Finetuning, ParamsError, Training

Examples = list[dict[str, list[Any]]]  # integers, but for soft labels
Info = dict[str, Any]  # what :func:`glore_lib.models.training.train` returns
LAST_LINES = 5  # of a failed process's output, shown in the error


@dataclass(frozen=True)
class Job:
    """What to train, and how.

    ``start`` and ``base`` are the folders or hub names of the model to start from and of the run's base.
    ``language_model_loss`` is the weight of that loss in a reward model, and None to train a language model;
    ``head_rate`` is the multiple of the learning rate for a reward model's head.
    """

    start: str
    base: str
    dtype: str
    finetuning: Finetuning
    training: Training
    seed: int
    language_model_loss: float | None = None
    head_rate: float = 1.0

    def build(self) -> nn.Module:
        """Build the model to train: on the CPU for FSDP, since the whole model may not fit on one GPU."""
        place = torch.device("cpu") if self.finetuning.parallel == "fsdp" else None
        model = adapt(load_model(self.start, self.dtype, place, self.base), self.finetuning, self.seed)
        loss = self.language_model_loss
        return LanguageModel(model) if loss is None else RewardModel(model, loss)


_JOB = TypeAdapter(tuple[Job, Examples])


def fit(job: Job, tokenizer: PreTrainedTokenizerBase, examples: Examples, folder: Path) -> Info:
    """Fine-tune a model on token ids and labels and save it to ``folder``.

    Raises ParamsError if the GPU runs out of memory, and RuntimeError if one of several processes fails.
    """
    return (_fit if job.finetuning.processes == 1 else _launch)(job, tokenizer, examples, folder)


def _fit(job: Job, tokenizer: PreTrainedTokenizerBase, examples: Examples, folder: Path, saves: bool = True) -> Info:
    """Train in this process; with several processes, each calls this and one saves."""
    model = job.build()
    pad = tokenizer.pad_token_id
    info = training.train(model, examples, job.finetuning, job.training, pad, job.seed, folder, job.head_rate)
    model = whole(model, job)
    if saves:
        save = model.save if isinstance(model, RewardModel) else partial(save_model, model.model)  # type: ignore[arg-type]
        save(tokenizer, job.start, folder, on_base=job.start == job.base)
    return info


def whole(model: nn.Module, job: Job) -> nn.Module:
    """Gather a model that FSDP divided; return any other model unchanged.

    Every process must call it. The first one gets a new model on the CPU with the trained weights.
    """
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if distributed.get_rank():
        return model
    fresh = job.build()
    fresh.load_state_dict(state)
    return fresh


def _launch(job: Job, tokenizer: PreTrainedTokenizerBase, examples: Examples, folder: Path) -> Info:
    """Run :func:`_fit` in ``finetuning.processes`` processes of this machine.

    Inputs and outputs are exchanged as files in ``folder / "processes"``, which is removed at the end.
    """
    exchange = folder / "processes"
    exchange.mkdir()
    (exchange / "job.json").write_bytes(_JOB.dump_json((job, examples)))
    tokenizer.save_pretrained(exchange / "tokenizer")
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # the new processes need this process's unused memory
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={job.finetuning.processes}",
        f"--log-dir={exchange / 'logs'}", "--redirects=3", "--module", "glore_lib.models.launch", str(folder),
    ]  # fmt: skip
    log = exchange / "launcher.txt"
    environment = os.environ | {"PYTHONPATH": path}
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output) as launcher,
    ):
        launcher.wait()
    if launcher.returncode:
        raise _failure(job.finetuning.processes, exchange / "logs", log.read_text(encoding="utf-8", errors="replace"))
    info = json.loads((exchange / "info.json").read_text(encoding="utf-8"))
    shutil.rmtree(exchange)
    return info


def _failure(processes: int, logs: Path, launcher: str) -> Exception:
    """Build the error of the first process that failed, or of the launcher if that process was killed."""
    errors = sorted(logs.rglob("error.json"), key=lambda path: path.stat().st_mtime_ns)
    if errors:
        message = json.loads(errors[0].read_text(encoding="utf-8"))["message"]
        kind, _, text = message["message"].partition(": ")
        if kind == ParamsError.__name__:
            return ParamsError(text)
        lines = message["extraInfo"]["py_callstack"]
    else:
        lines = launcher
    last = "\n".join(lines.strip().splitlines()[-LAST_LINES:])
    return RuntimeError(f"finetuning.processes = {processes}: one failed, all were stopped; its last lines:\n{last}")


def _exit_with_parent() -> None:
    """Exit when the parent process does: it holds the other end of this process's stdin."""
    sys.stdin.read()
    os._exit(1)


@record
def main() -> None:
    """Run one of the processes that :func:`_launch` starts."""
    folder = Path(sys.argv[1])
    exchange = folder / "processes"
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    quiet()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    job, examples = _JOB.validate_json((exchange / "job.json").read_bytes())
    first = os.environ["RANK"] == "0"
    info = _fit(job, AutoTokenizer.from_pretrained(exchange / "tokenizer"), examples, folder, saves=first)
    if first:
        (exchange / "info.json").write_text(json.dumps(info), encoding="utf-8")
    if distributed.is_initialized():
        distributed.destroy_process_group()


def quiet() -> None:
    """Silence the progress bars and notices of libraries, which would clutter rendered notebooks."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|accelerate|transformers")


if __name__ == "__main__":
    main()
