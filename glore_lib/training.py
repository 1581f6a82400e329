"""transformers.Trainer glue shared by students, reward models and refiners."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from glore_lib import packing, params
from glore_lib.models import ScalarHead, encode, memory_for
from glore_lib.packing import IGNORE


def solution_example(
    tokenizer: PreTrainedTokenizerBase, prompt: str, steps: Sequence[str], learn_from: int = 1
) -> dict[str, list[int]]:
    """Token ids and labels of a prompt and the solution to be written after it, end-of-sequence token included.

    The loss is taken on the solution from step ``learn_from`` (1-based) on.
    """
    encoded = encode(tokenizer, prompt, steps)
    start = encoded.step_ends[learn_from - 2] + 1 if learn_from > 1 else encoded.prompt_length
    ids = [*encoded.ids, tokenizer.eos_token_id]
    return {"input_ids": ids, "labels": [IGNORE] * start + ids[start:]}


def collate(rows: list[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded tensors [batch, longest row]; the attention mask, not the pad token, says what is padding."""
    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": pad, "attention_mask": 0}
    rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in rows]
    return {
        key: torch.tensor([row[key] + [fill.get(key, IGNORE)] * (width - len(row[key])) for row in rows])
        for key in rows[0]
    }  # fmt: skip


def train(
    model: nn.Module, examples: list[dict[str, list[int]]], finetuning: params.Finetuning, training: params.Training,
    pad: int, seed: int, folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Trains ``model`` in place and returns what it took: steps, sequences, tokens, the share of the batches that was
    padding, the loss at each log.

    A reward model's sequences are rows of :func:`glore_lib.packing.pack`. Those longer than ``max_length`` are left
    out and counted. Where none is left, the model stays as it was.
    Where ``finetuning.processes`` > 1, all of these call it at once, with the same arguments; by FSDP each is left with
    its part of the model (:func:`glore_lib.fitting.whole`).
    Raises ParamsError where the GPU's memory does not suffice, or where the loss or a weight is no finite number.
    """
    kept = [e for e in examples if len(e["input_ids"]) <= finetuning.max_length]
    if not kept:
        nothing = {"steps": 0, "sequences": 0, "tokens_trained": 0, "padding": 0.0, "losses": []}
        return nothing | {"too_long": len(examples)}
    epoch_steps = -(-len(kept) // finetuning.batch_size)
    steps = min(training.max_steps, training.epochs * epoch_steps)
    sharded = finetuning.parallel == "fsdp"
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=steps, learning_rate=training.learning_rate,
        per_device_train_batch_size=finetuning.micro_batch_size,
        gradient_accumulation_steps=finetuning.batch_size // (finetuning.micro_batch_size * finetuning.processes),
        optim=finetuning.optimiser, bf16=finetuning.mixed_precision and not sharded,
        lr_scheduler_type="cosine", warmup_steps=steps // 20, weight_decay=0.01, max_grad_norm=1.0,
        train_sampling_strategy="group_by_length", logging_steps=max(1, steps // 40), save_strategy="no",
        report_to="none", logging_nan_inf_filter=False,
        disable_tqdm=True, seed=seed, data_seed=seed, use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(), label_names=["labels"],
        fsdp=sharded, fsdp_config={"transformer_layer_cls_to_wrap": _divided(model)} if sharded else None,
    )  # fmt: skip
    collated = {"tokens": 0, "padded": 0}

    def batch(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        made = (packing.collate if "parents" in rows[0] else collate)(rows, pad)
        collated["tokens"] += sum(len(row["input_ids"]) for row in rows)
        collated["padded"] += made["input_ids"].numel()
        return made

    trainer = QuietTrainer(model, arguments, train_dataset=kept, data_collator=batch)
    if finetuning.processes > 1:
        trainer.train_dataset = [*kept, {key: [IGNORE] for key in kept[0]} | {"input_ids": [pad]}]
    trainer.autocasts = finetuning.mixed_precision and sharded
    remedy = "lower it or finetuning.max_length, or set finetuning.gradient_checkpointing: true or method: qlora"
    with memory_for("finetuning.micro_batch_size", finetuning.micro_batch_size, remedy):
        trainer.train()
    trainable = (parameter for parameter in model.parameters() if parameter.requires_grad)
    if not all(getattr(parameter, "_local_tensor", parameter).isfinite().all() for parameter in trainable):
        raise _diverged(training.learning_rate, f"weights are not finite after step {steps}, the last")
    losses = [{"step": log["step"], "loss": log["loss"]} for log in trainer.state.log_history if "loss" in log]
    per_epoch = sum(len(e["input_ids"]) for e in kept)
    return {
        "steps": steps, "sequences": len(kept), "too_long": len(examples) - len(kept),
        "tokens_trained": round(per_epoch * steps / epoch_steps),
        "padding": round(1 - collated["tokens"] / collated["padded"], 4), "losses": losses,
    }  # fmt: skip


def _diverged(learning_rate: float, how: str) -> params.ParamsError:
    return params.ParamsError(f"learning_rate = {learning_rate}: {how}; lower it in the parameters of this training")


def _divided(model: nn.Module) -> list[str]:
    """The classes of the modules that FSDP gathers one at a time: the model's layers, a reward model's head."""
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    classes = {type(module).__name__ for module in model.modules()}
    return sorted(names & classes | {ScalarHead.__name__} & classes)


class QuietTrainer(Trainer):
    """Keeps its losses to itself: they go into the artifact's record and from there into a plot."""

    autocasts = False

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.state.log_history.append({**logs, "step": self.state.global_step})

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if not loss.isfinite():  # and the model is lost: by the next step its weights are no numbers either
            raise _diverged(self.args.learning_rate, f"the loss is {loss.item()} in step {self.state.global_step + 1}")
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        if self.args.world_size == 1:
            return super()._get_train_sampler(train_dataset)
        lengths = [len(example["input_ids"]) for example in self.train_dataset[:-1]]
        together = self.args.train_batch_size * self.args.world_size
        return SharedOrder(together * self.args.gradient_accumulation_steps, lengths, together)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager:
        # With FSDP, accelerate's own mixed precision would train a float32 copy of the weights: another model than one
        # process trains. Without the cache, what FSDP gathers is let go after each layer.
        if self.autocasts:
            return torch.autocast(self.args.device.type, torch.bfloat16, cache_enabled=False)
        return super().autocast_smart_context_manager(cache_enabled)


class SharedOrder(LengthGroupedSampler):
    """The order in which one process would take the examples, for several, which take the micro-batches in turn.

    The first process draws it for all: what they drew alone would differ once dropout has used up random numbers. The
    last examples of an epoch are filled up to ``together``, a micro-batch for each process, with one that nothing is
    learned from, ``len(lengths)``: accelerate would fill up with other examples, and learn those twice.
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
