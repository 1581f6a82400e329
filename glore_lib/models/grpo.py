"""Train a language model by GRPO (Shao et al. 2024) with TRL's GRPOTrainer, which samples as its caller says.

A group is the completions of one prompt. A completion's advantage is its reward minus the group's mean, divided by the
group's standard deviation. Where each step has a reward, a token's advantage is the sum of those of its own and of the
later steps (process supervision, section 4.1.3 there).
"""

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer
from trl import GRPOConfig, GRPOTrainer

from glore_lib.artifacts.records import UNFINISHED, verify_record, write_record
from glore_lib.models.loading import raise_on_oom
from glore_lib.models.training import SAVE_EVERY, WEIGHTS, QuietTrainer, _diverged, _latest
from glore_lib.params import Finetuning

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # TRL would warn of rollout_func, and of options that it needs here
logging.getLogger("trl").setLevel(logging.ERROR)
LOGGED = ("step", "reward", "kl", "correct", "correct_steps", "tokens")
STABLE = 1e-4  # added to standard deviations, as TRL does


@dataclass(frozen=True)
class Written:
    """The completions of some prompts: token ids, rewards, and measures to log.

    ``rewards`` has one for each completion, and ``step_rewards`` one for each step of each, if steps have rewards;
    ``step_of_token`` then says to which step (counted from 0) each token belongs.
    """

    ids: list[list[int]]
    rewards: list[float]
    measures: dict[str, float] = field(default_factory=dict)
    step_rewards: list[list[float]] | None = None
    step_of_token: list[list[int]] = field(default_factory=list)


# Called with the model, the prompt's number for each completion, and the number of the optimiser step.
Write = Callable[[PreTrainedModel, list[int], int], Written]


@dataclass(frozen=True)
class Schedule:
    """``steps`` optimiser steps of ``groups`` groups of ``samples`` completions, and how to sample and to learn."""

    steps: int
    groups: int
    samples: int
    temperature: float
    max_new_tokens: int
    learning_rate: float
    kl_weight: float


def step_advantages(
    step_rewards: Sequence[Sequence[float]], step_of_token: Sequence[Sequence[int]], samples: int
) -> list[list[float]]:
    """Return the advantage of each token of each completion; ``samples`` in a row are a group.

    Rewards are normalised over all steps of a group. A token's advantage is the sum over its own and the later steps.
    """
    advantages = []
    for start in range(0, len(step_rewards), samples):
        group = step_rewards[start : start + samples]
        every = np.concatenate([np.asarray(rewards, dtype=float) for rewards in group])
        mean, deviation = (every.mean(), every.std(ddof=1)) if len(every) > 1 else (every.sum(), 0.0)
        for rewards, tokens in zip(group, step_of_token[start : start + samples], strict=True):
            ahead = ((np.asarray(rewards, dtype=float) - mean) / (deviation + STABLE))[::-1].cumsum()[::-1]
            advantages.append([float(ahead[step]) if step < len(ahead) else 0.0 for step in tokens])
    return advantages


def train(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]],
    finetuning: Finetuning, schedule: Schedule, write: Write, seed: int, folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Train ``model`` in place on its own completions of ``prompts`` (token ids, one group each), in their order.

    ``write`` samples and rewards them. The KL divergence is that from the model as it is given; a whole model is
    loaded for it from its folder once more. A checkpoint in ``folder`` from an interrupted training is resumed, with
    the same result if what ``write`` returns depends on its arguments alone.
    Returns the numbers of steps, completions and generated tokens, and as ``log`` the measures of each step.
    Raises ParamsError if the GPU runs out of memory, or if the loss or a weight is not finite.
    """
    completions = schedule.groups * schedule.samples
    together = math.gcd(finetuning.micro_batch_size, completions)
    checkpoints = folder / UNFINISHED / "training"
    arguments = GRPOConfig(
        output_dir=str(checkpoints), max_steps=schedule.steps, learning_rate=schedule.learning_rate,
        per_device_train_batch_size=together, gradient_accumulation_steps=completions // together,
        num_generations=schedule.samples, temperature=schedule.temperature,
        max_completion_length=schedule.max_new_tokens, beta=schedule.kl_weight, loss_type="grpo",
        model_init_kwargs={"dtype": model.dtype}, disable_dropout=True, shuffle_dataset=False,
        optim=finetuning.optimiser, bf16=finetuning.mixed_precision,
        gradient_checkpointing=finetuning.gradient_checkpointing, max_grad_norm=1.0,
        lr_scheduler_type="constant_with_warmup", warmup_steps=schedule.steps // 20,
        logging_steps=1, logging_nan_inf_filter=False, save_strategy="steps", save_steps=SAVE_EVERY,
        save_total_limit=2, report_to="none", disable_tqdm=True, seed=seed, data_seed=seed,
        use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # the Trainer would multiply the batch by it, and TRL would not
    torch.backends.cuda.enable_cudnn_sdp(False)  # as in glore_lib.models.training.train
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
    numbers = Dataset.from_dict({"prompt": [str(number) for number in range(len(prompts))]})
    trainer = _Trainer(write, prompts, model=model, args=arguments, train_dataset=numbers, processing_class=tokenizer)
    for name, parameter in model.named_parameters():  # TRL makes adapters over four bits bfloat16
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtypes[name])
    with raise_on_oom("finetuning.micro_batch_size", finetuning.micro_batch_size, "lower it or sampling.rows"):
        trainer.train(resume_from_checkpoint=_latest(checkpoints))
    if not all(parameter.isfinite().all() for parameter in model.parameters() if parameter.requires_grad):
        raise _diverged(schedule.learning_rate, f"weights are not finite after step {schedule.steps}, the last")
    if isinstance(model, PeftModel) and "ref" in model.peft_config:
        model.delete_adapter("ref")  # the adapter as it was given, for the KL divergence
    shutil.rmtree(checkpoints, ignore_errors=True)
    log = [entry for entry in trainer.state.log_history if "reward" in entry]
    return {
        "steps": schedule.steps, "completions": schedule.steps * completions,
        "tokens_generated": round(sum(entry["tokens"] for entry in log)),
        "log": [{name: entry[name] for name in LOGGED if name in entry} for entry in log],
        "seconds_before": trainer.seconds_before,
    }  # fmt: skip


def _reward(reward: list[float | None], log_metric: Callable[[str, float], None], **given: Any) -> list[float | None]:
    """Pass on the rewards and measures that came with the completions."""
    for name, value in given["measures"][0].items():
        log_metric(name, value)
    return reward


class _Trainer(GRPOTrainer):
    """A GRPOTrainer that lets ``write`` sample, tells nobody, and whose checkpoints hold only the trained weights."""

    seconds_before = 0.0  # from the checkpoint that was resumed
    _save = QuietTrainer._save

    def __init__(self, write: Write, prompts: Sequence[Sequence[int]], **options: Any):
        self.write, self.prompts, self.started = write, prompts, time.perf_counter()
        super().__init__(reward_funcs=_reward, rollout_func=self._write, **options)
        self.remove_callback(PrinterCallback)

    def _send_telemetry(self) -> None:
        pass

    def _write(self, numbers: list[str], _: Any) -> dict[str, Any]:
        """Sample a completion of each prompt; those of a group come in a row."""
        model: Any = self.model
        policy: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        attention, generation_config = policy.config._attn_implementation, policy.generation_config
        asked = [int(number) for number in numbers]
        self.written = self.write(policy, asked, self.state.global_step)
        policy.set_attn_implementation(attention)  # of training: samplers change all three
        policy.generation_config = generation_config
        model.train()
        return {
            "prompt_ids": [list(self.prompts[number]) for number in asked], "completion_ids": self.written.ids,
            "logprobs": None, "reward": self.written.rewards, "measures": [self.written.measures] * len(asked),
        }  # fmt: skip

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.written.step_rewards is not None:
            samples: int = self.num_generations  # type: ignore[assignment]
            of_tokens = step_advantages(self.written.step_rewards, self.written.step_of_token, samples)
            advantages = torch.zeros_like(output["completion_mask"], dtype=torch.float32)
            for row, values in zip(advantages, of_tokens, strict=True):
                row[: len(values)] = torch.tensor(values)
            output["advantages"] = advantages
        return output

    def training_step(self, model: nn.Module, *arguments: Any, **options: Any) -> torch.Tensor:
        """Take a step; raise ParamsError if the loss is not finite."""
        loss = super().training_step(model, *arguments, **options)
        if not loss.isfinite():
            raise _diverged(self.args.learning_rate, f"the loss is {loss.item()} in step {self.state.global_step + 1}")
        return loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.state.global_step == self.state.max_steps:
            return  # the final model is saved next
        Trainer._save_checkpoint(self, model, trial)  # TRL's own also writes a model card
        seconds = self.seconds_before + time.perf_counter() - self.started
        write_record(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}", {"seconds": seconds})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        trained: Any = self.model
        trained.load_state_dict(load_file(f"{resume_from_checkpoint}/{WEIGHTS}"), strict=False)
        self.seconds_before = verify_record(Path(resume_from_checkpoint))["seconds"]
