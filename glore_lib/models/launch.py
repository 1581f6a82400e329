"""One fine-tuning, from the model that it starts from to the files of the one it makes: here or in several processes.

Several processes are started by torch's launcher, each running this module: a fork of a notebook's process could not
use CUDA once that has. Each makes the model, trains it by :func:`glore_lib.models.training.train`, whose Trainer divides the
work with accelerate, and the first one saves it.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.tensor import DTensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from glore_lib.artifacts.store import Artifact
from glore_lib.models import training
from glore_lib.models.loading import adapt, load_model, save_model
from glore_lib.models.reward_head import RewardModel
from glore_lib.params import Finetuning, ParamsError, Training
from glore_lib.run import Run, quiet

Examples = list[dict[str, list[int]]]
LAST_LINES = 5  # of what a lost process wrote


@dataclass(frozen=True)
class Job:
    """What is trained, and how. ``start`` is the model's folder or hub name; ``language_model_loss`` is of a reward
    model, and None where a language model is trained."""

    start: str
    dtype: str
    finetuning: Finetuning
    training: Training
    seed: int
    language_model_loss: float | None = None

    def build(self) -> nn.Module:
        """The model before it is trained; where it will be divided, on the CPU: whole it may be too large for a GPU."""
        place = torch.device("cpu") if self.finetuning.parallel == "fsdp" else None
        model = adapt(load_model(self.start, self.dtype, place), self.finetuning, self.seed)
        return model if self.language_model_loss is None else RewardModel(model, self.language_model_loss)


def fit(
    run: Run, start: Artifact | None, name: str, examples: Examples, training_params: Training, folder: Path,
    language_model_loss: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Trains a model of the run, or its base where ``start`` is None, on token ids and labels, and saves it to
    ``folder``; returns what :func:`glore_lib.models.training.train` does. ``name`` makes the seed.

    Raises ParamsError where the GPU's memory does not suffice, and RuntimeError where one of several processes fails.
    """
    run.free()
    finetuning = run.params.finetuning
    job = Job(
        run.path(start), run.params.base_model.dtype, finetuning, training_params, run.seed(name), language_model_loss
    )  # fmt: skip
    if finetuning.processes == 1:
        return _fit(job, run.tokenizer, examples, folder)
    return _launch(job, run.tokenizer, examples, folder)


def _fit(
    job: Job, tokenizer: PreTrainedTokenizerBase, examples: Examples, folder: Path, saves: bool = True
) -> dict[str, Any]:
    """Of several processes, all call it at once and one saves."""
    model = job.build()
    info = training.train(
        model, examples, job.finetuning, job.training, tokenizer.pad_token_id, job.seed, folder
    )  # fmt: skip
    model = whole(model, job)
    if not saves:
        return info
    if isinstance(model, RewardModel):
        model.save(tokenizer, job.start, folder)
    else:
        save_model(model, tokenizer, job.start, folder)
    return info


def whole(model: nn.Module, job: Job) -> nn.Module:
    """The trained model in one piece. Of one that FSDP divided, all processes must ask for it, and only the first gets
    it: a fresh model, on the CPU, with the trained weights."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if distributed.get_rank():
        return model
    fresh = job.build()
    fresh.load_state_dict(state)
    return fresh


def _launch(job: Job, tokenizer: PreTrainedTokenizerBase, examples: Examples, folder: Path) -> dict[str, Any]:
    """:func:`_fit` in ``finetuning.processes`` processes of this machine. What they are told and say goes through
    ``folder``, and is gone at the end."""
    talk = folder / "processes"
    talk.mkdir()
    # The sections' own dumps leave out what enters no hash.
    told = {key: dict(value) if isinstance(value, Finetuning | Training) else value for key, value in vars(job).items()}
    (talk / "job.json").write_text(json.dumps(told))
    pd.DataFrame(examples).to_parquet(talk / "examples.parquet")
    tokenizer.save_pretrained(talk / "tokenizer")
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # the processes need what this one has used
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={job.finetuning.processes}",
        f"--log-dir={talk / 'logs'}", "--redirects=3", "--module", "glore_lib.models.launch", str(folder),
    ]  # fmt: skip
    said = talk / "launcher.txt"
    with (
        said.open("w") as output,
        subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=output, stderr=output
        ) as launcher,
    ):
        launcher.wait()
    if launcher.returncode:
        raise _failure(job.finetuning.processes, talk / "logs", said.read_text())
    info = json.loads((talk / "info.json").read_text())
    shutil.rmtree(talk)
    return info


def _failure(processes: int, logs: Path, launcher: str) -> Exception:
    """What the first process to fail says; where it was killed and could not, what the launcher does."""
    errors = sorted(logs.rglob("error.json"), key=lambda path: path.stat().st_mtime_ns)
    if errors:
        said = json.loads(errors[0].read_text())["message"]
        kind, _, text = said["message"].partition(": ")
        if kind == ParamsError.__name__:
            return ParamsError(text)
        lines = said["extraInfo"]["py_callstack"]
    else:
        lines = launcher
    last = "\n".join(lines.strip().splitlines()[-LAST_LINES:])
    return RuntimeError(f"finetuning.processes = {processes}: one of them failed, and all were ended. It says:\n{last}")


def _end_with_the_run() -> None:
    """The run holds the other end of this process's input, and lets go of it when it is interrupted or killed."""
    sys.stdin.read()
    os._exit(1)


@record
def main() -> None:
    """What each process does."""
    folder = Path(sys.argv[1])
    talk = folder / "processes"
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    quiet()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    told = json.loads((talk / "job.json").read_text())
    job = Job(
        **told | {"finetuning": Finetuning(**told["finetuning"]), "training": Training(**told["training"])}
    )  # fmt: skip
    frame = pd.read_parquet(talk / "examples.parquet")
    examples = [{key: list(map(int, ids)) for key, ids in row.items()} for row in frame.to_dict("records")]
    first = os.environ["RANK"] == "0"
    info = _fit(job, AutoTokenizer.from_pretrained(talk / "tokenizer"), examples, folder, saves=first)
    if first:
        (talk / "info.json").write_text(json.dumps(info))
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
