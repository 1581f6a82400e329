"""Train students, reward models and refiners with ``transformers.Trainer``."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from glore_lib import params
from glore_lib.artifacts.records import UNFINISHED, StoreError, verify_record, warn, write_record
from glore_lib.models.loading import raise_on_oom
from glore_lib.models.prefix_tree import IGNORE, Labelled, Row, collate, next_tokens
from glore_lib.models.reward_head import ScalarHead
from glore_lib.models.tokens import encode

SAVE_EVERY = 5  # logs; a logged loss is the mean since the last log, so training can only resume where it logged
WEIGHTS = "trained.safetensors"


def solution_example(
    tokenizer: PreTrainedTokenizerBase, prompt: str, steps: Sequence[str], learn_from: int = 1
) -> Labelled:  # fmt: skip
    """Return a prompt, its solution and the end-of-sequence token, labelled with what a language model learns.

    That is the solution from step ``learn_from`` (1-based) on.
    """
    encoded = encode(tokenizer, prompt, steps)
    start = encoded.step_ends[learn_from - 2] + 1 if learn_from > 1 else encoded.prompt_length
    return next_tokens([*encoded.ids, tokenizer.eos_token_id], start)


def train(
    model: nn.Module, examples: list[Row], finetuning: params.Finetuning, training: params.Training,
    pad: int, seed: int, folder: Path, head_rate: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """Train ``model`` in place; return the steps, sequences, tokens, share of padding and the losses logged.

    The head of a reward model learns at ``head_rate`` times the learning rate.

    The sequences are rows of :func:`glore_lib.models.prefix_tree.pack`. Sequences longer than
    ``max_length`` are counted and left out; without any the model is not changed. A checkpoint in ``folder`` from an
    interrupted training is resumed, with the same result (FSDP writes none). If ``finetuning.processes`` > 1, each
    process calls this function with the same arguments; with FSDP each then holds its part of the model (see
    :func:`glore_lib.models.launch.whole`).
    Raises ParamsError if all sequences are too long, if the GPU runs out of memory, or if the loss or a weight is not
    finite.
    """
    if not examples:
        return {"steps": 0, "sequences": 0, "too_long": 0, "tokens_trained": 0, "padding": 0.0, "losses": []}
    lengths = [len(e["input_ids"]) for e in examples]
    kept = [e for e, length in zip(examples, lengths, strict=True) if length <= finetuning.max_length]
    if not kept:
        raise params.ParamsError(
            f"finetuning.max_length = {finetuning.max_length}: all {len(examples)} training sequences are longer, the "
            f"shortest {min(lengths)} and the longest {max(lengths)} tokens; raise it"
        )
    epoch_steps = -(-len(kept) // finetuning.batch_size)
    steps = min(training.max_steps, training.epochs * epoch_steps)
    log_every = max(1, steps // 40)
    checkpoints = folder / UNFINISHED / "training"
    sharded = finetuning.parallel == "fsdp"
    arguments = TrainingArguments(
        output_dir=str(checkpoints), max_steps=steps, learning_rate=training.learning_rate,
        per_device_train_batch_size=finetuning.micro_batch_size,
        gradient_accumulation_steps=finetuning.batch_size // (finetuning.micro_batch_size * finetuning.processes),
        optim=finetuning.optimiser, bf16=finetuning.mixed_precision and not sharded,
        lr_scheduler_type="cosine", warmup_steps=steps // 20, weight_decay=0.01, max_grad_norm=1.0,
        train_sampling_strategy="group_by_length", logging_steps=log_every,
        save_strategy="no" if sharded else "steps", save_steps=SAVE_EVERY * log_every, save_total_limit=2,
        report_to="none", logging_nan_inf_filter=False,
        disable_tqdm=True, seed=seed, data_seed=seed, use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(), label_names=["labels"],
        fsdp=sharded, fsdp_config={"transformer_layer_cls_to_wrap": _divided(model)} if sharded else None,  # type: ignore[arg-type]
    )  # fmt: skip

    def batch(rows: list[Row]) -> dict[str, Any]:
        made = collate(rows, pad)
        return made | {"read": (sum(len(row["input_ids"]) for row in rows), made["input_ids"].numel())}

    trainer = QuietTrainer(model, arguments, train_dataset=kept, data_collator=batch)
    if finetuning.processes > 1:
        trainer.train_dataset = [*kept, {key: [IGNORE] for key in kept[0]} | {"input_ids": [pad]}]
    # cuDNN's gradients are NaN for masked rows of 64, 192, 320, ... tokens (pytorch issue 196678, seen with Qwen2.5).
    torch.backends.cuda.enable_cudnn_sdp(False)
    trainer.head_rate = head_rate
    trainer.autocasts = finetuning.mixed_precision and sharded
    remedy = "lower it or finetuning.max_length, or set finetuning.gradient_checkpointing: true or method: qlora"
    with raise_on_oom("finetuning.micro_batch_size", finetuning.micro_batch_size, remedy):
        trainer.train(resume_from_checkpoint=_latest(checkpoints))
    trainable = (parameter for parameter in model.parameters() if parameter.requires_grad)
    if not all(getattr(parameter, "_local_tensor", parameter).isfinite().all() for parameter in trainable):
        raise _diverged(training.learning_rate, f"weights are not finite after step {steps}, the last")
    trainer.accelerator.wait_for_everyone()  # others may still be looking for checkpoints
    if trainer.is_world_process_zero():
        shutil.rmtree(checkpoints, ignore_errors=True)
    losses = [{"step": log["step"], "loss": log["loss"]} for log in trainer.state.log_history if "loss" in log]
    per_epoch = sum(len(e["input_ids"]) for e in kept)
    return {
        "steps": steps, "sequences": len(kept), "too_long": len(examples) - len(kept),
        "tokens_trained": round(per_epoch * steps / epoch_steps),
        "padding": round(1 - trainer.progress["tokens"] / trainer.progress["padded"], 4), "losses": losses,
        "seconds_before": trainer.seconds_before,
    }  # fmt: skip


def _diverged(learning_rate: float, how: str) -> params.ParamsError:
    return params.ParamsError(f"learning_rate = {learning_rate}: {how}; lower it in the parameters of this training")


def _latest(checkpoints: Path) -> str | None:
    """Return the newest intact checkpoint; warn about and skip corrupt ones."""
    for path in sorted(checkpoints.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            verify_record(path)
            return str(path)
        except StoreError as damage:
            warn(f"{checkpoints.parent.parent.name[1:]}: {damage}; an earlier one is used if there is one")
    return None


def _divided(model: nn.Module) -> list[str]:
    """List the module classes that FSDP gathers one at a time: the model's layers, a reward model's head."""
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    classes = {type(module).__name__ for module in model.modules()}
    return sorted(names & classes | {ScalarHead.__name__} & classes)


class QuietTrainer(Trainer):
    """A Trainer that prints no losses and whose checkpoints hold only the trained weights."""

    autocasts, head_rate = False, 1.0
    seconds_before, draw_from = 0.0, None  # from the checkpoint that was resumed

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.progress, self.started = {"tokens": 0, "padded": 0}, time.perf_counter()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Give the head of a reward model a learning rate of its own."""
        optimizer = super().create_optimizer(model)
        heads = {p for module in self.model.modules() if isinstance(module, ScalarHead) for p in module.parameters()}  # type: ignore[union-attr]
        for group in list(optimizer.param_groups) if heads and self.head_rate != 1 else []:
            of_head = [p for p in group["params"] if p in heads]
            group["params"] = [p for p in group["params"] if p not in heads]
            optimizer.add_param_group(group | {"params": of_head, "lr": group["lr"] * self.head_rate})
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record the losses and their step without printing them."""
        self.state.log_history.append({**logs, "step": self.state.global_step})

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any) -> torch.Tensor:
        """Return the loss of a micro-batch; raise ParamsError if it is not finite."""
        # Counted here because the loader prefetches, and would count a batch twice after an interruption.
        tokens, padded = inputs.pop("read")
        self.progress["tokens"] += tokens
        self.progress["padded"] += padded
        loss = super().training_step(model, inputs, *arguments)
        if not loss.isfinite():  # by the next step the weights are not finite either
            raise _diverged(self.args.learning_rate, f"the loss is {loss.item()} in step {self.state.global_step + 1}")
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        if self.args.world_size == 1:
            order = super()._get_train_sampler(train_dataset)
        else:
            lengths = [len(example["input_ids"]) for example in self.train_dataset[:-1]]  # type: ignore[index]
            together = self.args.train_batch_size * self.args.world_size
            order = SharedOrder(together * self.args.gradient_accumulation_steps, lengths, together)
        self.order = ReproducibleSampler(order, self.draw_from)  # type: ignore[arg-type]
        return self.order

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.state.global_step == self.state.max_steps:
            return  # the final model is saved next
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every process writes a file to it
        if self.is_world_process_zero():
            seconds = self.seconds_before + time.perf_counter() - self.started
            record = {"progress": self.progress, "seconds": seconds, "order": self.order.drawn_from.numpy().tolist()}  # type: ignore[union-attr]
            write_record(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}", record)  # type: ignore[arg-type]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # Only trained weights: the model under an adapter does not change.
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # type: ignore[arg-type]
        learned = {name: p.data for name, p in self.model.named_parameters() if p.requires_grad}  # type: ignore[union-attr]
        save_file(learned, f"{output_dir}/{WEIGHTS}")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.model.load_state_dict(load_file(f"{resume_from_checkpoint}/{WEIGHTS}"), strict=False)  # type: ignore[union-attr]
        record = verify_record(Path(resume_from_checkpoint))
        self.progress, self.seconds_before = record["progress"], record["seconds"]
        self.draw_from = torch.tensor(record["order"], dtype=torch.uint8)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        # The epoch's order is drawn already, or, before its first step, will be drawn from the state loaded here.
        self.order.draw_from = None
        super()._load_rng_state(checkpoint)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager:
        """Autocast to bfloat16 if FSDP trains with mixed precision."""
        # With FSDP, accelerate's mixed precision would train a float32 copy of the weights, unlike a single process.
        # Without the cache, weights that FSDP gathers are freed after each layer.
        if self.autocasts:
            return torch.autocast(self.args.device.type, torch.bfloat16, cache_enabled=False)
        return super().autocast_smart_context_manager(cache_enabled)


class ReproducibleSampler(Sampler[int]):
    """Draw an order from the random state ``draw_from`` if set, to resume an epoch in the order it began with."""

    def __init__(self, order: Sampler, draw_from: torch.Tensor | None):
        self.order, self.draw_from, self.drawn_from = order, draw_from, draw_from

    def __len__(self) -> int:
        return len(self.order)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        if self.draw_from is not None:
            torch.set_rng_state(self.draw_from)
        self.drawn_from = torch.get_rng_state()
        return iter(self.order)


class SharedOrder(LengthGroupedSampler):
    """The order of a single process, for several processes that take the micro-batches in turn.

    The first process draws it for all, because random states differ once dropout has used them. The end of an epoch
    is padded to a multiple of ``together`` (one micro-batch for each process) with the example ``len(lengths)``, which
    has no labels. accelerate would pad with other examples, which would then be trained on twice.
    """

    def __init__(self, batch_size: int, lengths: list[int], together: int):
        super().__init__(batch_size, lengths=lengths)
        self.together = together

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.together) * self.together

    def __iter__(self) -> Iterator[int]:
        drawn = list(super().__iter__())
        (order,) = broadcast_object_list([drawn + [len(drawn)] * (len(self) - len(drawn))])
        return iter(order)
