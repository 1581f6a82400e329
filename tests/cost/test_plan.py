"""Check the plan: counts that the parameters fix are exact, others within a quarter of the committed runs'."""

import ast
import itertools
import json
import math
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig

from clone import TINY
from glore_lib.cost.hardware import HARDWARE, LLAMA_2, llama_size, measured_size, model_size, token_counter
from glore_lib.cost.plan import Plan, Work, plan
from glore_lib.method.replication import Replication
from glore_lib.models.loading import adapt
from glore_lib.models.sources import MINI_BASE
from glore_lib.params import Params, ParamsError, load_params
from glore_lib.reporting import tables
from glore_lib.run import Run
from glore_lib.solutions import BAD
from glore_lib.workflow.pipeline import ROOT
from tiny import Scripted, open_tiny, solver

planned_and_actual = runpy.run_path(str(ROOT / "benchmarks" / "plan_check.py"))["planned_and_actual"]
HARD = ROOT / "params" / "mini-hard.yaml"
SETTINGS = {
    "task.train_questions": 8, "student.rounds": 2, "student.sft_control": True, "student.samples_per_question": 3,
    "reward_models.samples_per_question": 4, "reward_models.figure4": True,
    "reward_models.figure4_training": {"epochs": 1, "max_steps": 2, "learning_rate": 1e-3},
    "student.sft": {"epochs": 3, "max_steps": 50, "learning_rate": 1e-3}, "refiner.no_error_found": "last_step",
}  # fmt: skip


FEW = {
    "task.train_questions": 80,
    "task.reward_questions": 0,
    "task.validation_questions": 20,
    "task.test_questions": 60,
}


def planned(given: dict | None = None, accuracy: float = 0.6, hardware: str = "cpu") -> Plan:
    return plan(load_params(HARD, FEW | (given or {})), accuracy, hardware)


def part(made: Plan, name: str) -> Work:
    """Return the first work with this name."""
    return next(work for work in made.work if work.name == name)


def test_samples_and_steps_are_those_of_a_run(tiny_base, tmp_path, monkeypatch):
    """Compare all but the rollouts and refinements, whose number depends on the samples."""
    rising = itertools.count()
    monkeypatch.setattr("glore_lib.method.students.accuracy", lambda samples: next(rising))  # no round is the last
    run = open_tiny(tiny_base, tmp_path / "artifacts", **{k.replace(".", "__"): v for k, v in SETTINGS.items()})
    sampler = Scripted(run.tokenizer, solver(run))
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    lab = Replication(run)
    tables.student_comparison(lab)
    assert len(lab.validation.numbers) < len(lab.numbers)
    made = plan(load_params(TINY, SETTINGS | {"base_model.source": str(tiny_base)}))
    asked = [r for r in sampler.requests if not r.common and BAD not in sampler.text(r)]
    others = [work for work in made.work if not work.name.startswith(("rollouts", "global", "local"))]
    assert sum(r.n for r in asked) == sum(work.samples for work in others)
    trained = lab.sft_student.model.record["info"]
    sft = part(made, "training sft")
    assert (sft.steps, round(sft.trained)) == (trained["steps"], trained["tokens_trained"])


def test_tokens_are_within_a_quarter_of_those_of_the_committed_runs():
    frame = planned_and_actual(ROOT / "results" / "mini").query("what != 'seconds'")
    assert set(frame["run"]) == {"mini-hard", "mini-easy"}
    # The first stage that needs the rollouts samples them.
    frame["stage"] = frame["stage"].replace({"02_orm": "reward models", "03_sorm": "reward models"})
    for keys in (["run", "what", "stage"], ["run", "what"]):
        sums = frame.groupby(keys)[["planned", "actual"]].sum()
        ratio = (sums["planned"] / sums["actual"]).dropna()  # 0 of 0: nothing is trained in 05
        assert ratio.between(0.75, 1.25).all(), ratio.to_string()


def test_better_students_need_fewer_rollouts_and_the_bounds_hold():
    name = "rollouts (test)"
    counts = [part(planned(accuracy=a), name).samples for a in (0.1, 0.5, 0.9)]
    assert counts == sorted(counts, reverse=True)
    k = load_params(HARD).reward_models.rollouts_per_step

    def rollouts(**settings) -> float:
        return part(planned({f"reward_models.{key}": value for key, value in settings.items()}), name).samples

    prefixes = rollouts(rollouts_per_step=1, early_stop=False)
    assert rollouts(early_stop=False) == pytest.approx(k * prefixes)
    assert rollouts(rollouts_per_step=1) < prefixes  # a shorter prefix's rollout serves the longer ones
    assert rollouts(rollouts_at_first=1) < rollouts(rollouts_at_first=k) < k * prefixes


def test_caps_bound_what_is_trained_on():
    few = planned({"refiner.pairs_per_question": 1, "refiner.training.max_steps": 9999})
    assert 0 < part(few, "training refiner").steps <= 2 * 2 * 80 / 16
    assert part(planned({"refiner.training.max_steps": 7}), "training refiner").steps == 7
    assert not [work for work in planned({"finetuning.max_length": 8}).work if work.trained]


def test_every_section_of_a_run_can_be_planned(data_dir):
    gsm8k = planned({"task.name": "gsm8k", "reward_models.figure4": False})
    assert "reference solutions" in gsm8k.sources["tokens"]
    svamp = planned({
        "task.name": "svamp", "student.start": "one_shot", "base_model.source": "scratch", "student.sft_control": False,
        "reward_models.figure4": False,
    })  # fmt: skip
    assert "one-shot example" in svamp.sources["tokens"]
    assert "training sft" not in [work.name for work in svamp.work]
    assert part(svamp, "pre-training").steps == load_params(HARD).base_model.pretrain_steps
    assert part(svamp, "round 1 (train)").read > part(svamp, "reward models (train)").read  # the example
    assert np.isfinite([row.seconds for made in (gsm8k, svamp) for row in made.stages]).all()


def test_model_sizes():
    with safe_open(MINI_BASE / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    assert model_size("mini-base")[0].parameters == sum(map(math.prod, shapes))
    # As printed by transformers and by peft (rank 16 on all projections).
    assert llama_size(LLAMA_2["13b"]).parameters == 13_015_864_320
    llama = llama_size(LLAMA_2["7b"])
    assert llama.parameters == 6_738_415_616 == llama.body + 2 * 32_000 * 4_096
    full = load_params(HARD).finetuning
    assert llama.trained(full) == llama.parameters
    assert llama.trained(full.model_copy(update={"method": "lora"})) == 39_976_960


LINEAR = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")] + ["lm_head", "embed_tokens"]


@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 64), st.integers(8, 99), st.booleans(),
    st.sampled_from([None, 2, 6]), st.lists(st.sampled_from([*LINEAR, "layers.0.mlp.up_proj"]), min_size=1),
)  # fmt: skip
@settings(max_examples=25)
def test_llamas_sizes_are_those_of_the_model_on_the_meta_device_and_of_peft(
    layers, groups, keys, width, vocabulary, tied, head, targets
):
    """For any shape: ``keys`` key heads that ``groups`` query heads share, and any LoRA targets."""
    config = LlamaConfig(
        num_hidden_layers=layers, hidden_size=4 * groups * keys, intermediate_size=width, vocab_size=vocabulary,
        num_attention_heads=groups * keys, num_key_value_heads=keys, head_dim=head, tie_word_embeddings=tied,
    )  # fmt: skip
    size = llama_size(json.loads(config.to_json_string()))
    assert size == measured_size(config)
    if tied:  # which has no adapters at its ends
        targets = [target for target in targets if target not in ("lm_head", "embed_tokens")] or ["q_proj"]
    finetuning = load_params(HARD).finetuning.model_copy(update={"method": "lora", "lora_targets": targets})
    with torch.device("meta"):
        adapted = adapt(AutoModelForCausalLM.from_config(config), finetuning, 0)
    assert size.trained(finetuning) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("config", "targets"),
    [
        (GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=50), ["c_attn", "wpe"]),
        (LlamaConfig(
            num_hidden_layers=2, hidden_size=8, intermediate_size=6, vocab_size=20, num_attention_heads=2,
            attention_bias=True, mlp_bias=True,
        ), ["q_proj"]),
    ],
    ids=["GPT-2", "a Llama with biases"],
)  # fmt: skip
def test_other_models_are_measured(config, targets, tmp_path, reliability):
    config.save_pretrained(tmp_path)
    size, _ = model_size(str(tmp_path))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    finetuning = load_params(HARD).finetuning.model_copy(update={"method": "lora", "lora_targets": targets})
    assert size.trained(finetuning.model_copy(update={"method": "full"})) == size.parameters == model.num_parameters()
    with torch.device("meta"):
        adapted = adapt(model, finetuning, 0)
    assert size.trained(finetuning) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    with pytest.raises(ParamsError, match=r"lora_targets = \['query'\]: no such layers; the model has [a-z_, ]+$"):
        size.trained(finetuning.model_copy(update={"lora_targets": [*targets, "query"]}))
    reliability("plan: LoRA targets that no layer has", "rejected in one line")


@pytest.mark.parametrize("base", ["tiny_base", "llama2_base"])
def test_tokens_are_counted_as_the_models_tokenizer_counts_them(base, request):
    source = str(request.getfixturevalue(base))
    count, by = token_counter(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    texts = ["tom has 3 apples .\n", "", "#### 12\n"]
    assert by == "the model's tokenizer"
    for special in (True, False):
        assert count(texts, special).tolist() == [
            len(ids) for ids in tokenizer(texts, add_special_tokens=special).input_ids
        ]


@pytest.mark.parametrize("arguments", [
    [HARD], [ROOT / "params" / "llama2-7b-gsm8k.yaml", "--hardware", "a100-80gb", "--set", "task.name=arithmetic"],
])  # fmt: skip
def test_a_plan_imports_neither_torch_nor_pandas(arguments):
    """They take seconds, and the plan is to answer within 3."""
    program = "import sys; from glore_lib.cli import app; app(standalone_mode=False); print(sorted(sys.modules))"
    command = [sys.executable, "-c", program, "plan", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    modules = ast.literal_eval(done.stdout.splitlines()[-1])
    assert "numpy" in modules
    assert not {"torch", "transformers", "pandas", "scipy.stats"} & set(modules)


def test_memory_and_hours_follow_the_method_and_the_hardware():
    llama = {
        "base_model.source": "meta-llama/Llama-2-7b-hf", "base_model.dtype": "bfloat16",
        "finetuning.micro_batch_size": 1,
    }  # fmt: skip
    full = planned(llama, hardware="h100-80gb")
    lora = planned(llama | {"finetuning.method": "lora"}, hardware="h100-80gb")
    p = load_params(HARD, FEW | llama)
    quantised = plan(Params.model_construct(**dict(p) | {
        "finetuning": p.finetuning.model_copy(update={"method": "qlora"})}), hardware="h100-80gb")  # fmt: skip
    memory = [part(made, "training sft").memory / 1e9 for made in (quantised, lora, full)]
    assert memory[0] < 14 < memory[1] < 54 < memory[2]  # 2 bytes a weight, 8 with gradient and Adam's states
    assert part(lora, "training sft").disk == 4 * 39_976_960
    assert "more than rtx-4090 has: 01_expert_iteration" in planned(llama, hardware="rtx-4090").sources["memory"]
    on_cpu = planned(llama)  # where Python and its libraries share the memory
    assert on_cpu.stages[0].memory - full.stages[0].memory == 0.5 * 2**30
    assert "Python" in on_cpu.sources["memory"] and "Python" not in full.sources["memory"]
    assert "characters a token" in full.sources["tokens"]
    slower = planned(llama, hardware="a100-80gb")
    assert slower.stages[-1].seconds > full.stages[-1].seconds


def test_a_cpu_without_bfloat16_is_planned_to_be_faster_in_float32():
    seconds = {
        (hardware, dtype): part(planned({"base_model.dtype": dtype}, hardware=hardware), "training sft").seconds
        for hardware in ("cpu", "cpu-avx2") for dtype in ("float32", "bfloat16")
    }  # fmt: skip
    assert seconds["cpu", "bfloat16"] < seconds["cpu", "float32"] == seconds["cpu-avx2", "float32"]
    assert seconds["cpu-avx2", "bfloat16"] > 10 * seconds["cpu-avx2", "float32"]


def test_vllm_is_planned_by_its_published_rate_and_need_not_be_installed():
    llama = {"base_model.source": "meta-llama/Llama-2-7b-hf", "base_model.dtype": "bfloat16"}
    plain = planned(llama, hardware="h100-80gb")
    vllm = planned(llama | {"sampling.backend": "vllm"}, hardware="h100-80gb")
    one, other = (part(made, "greedy (test)") for made in (plain, vllm))
    assert one.generated == other.generated and one.read == other.read
    assert part(vllm, "training sft").seconds == part(plain, "training sft").seconds
    decoding = other.generated / (3281 * 7.24e9 / 6_738_415_616)
    reading = other.read * 2 * (6_738_415_616 - 2 * 32_000 * 4_096) / (0.5 * 989e12)
    assert other.seconds == pytest.approx(decoding + reading)
    slower = planned(llama | {"sampling.backend": "vllm"}, hardware="a100-80gb")
    assert part(slower, "greedy (test)").seconds > other.seconds
    assert "LambdaLabsML" in vllm.sources["time"] and "vLLM" not in plain.sources["time"]


def test_processes_share_the_time_and_by_fsdp_the_memory_of_training():
    four = {"finetuning.batch_size": 64, "finetuning.micro_batch_size": 16, "finetuning.processes": 4}
    one = planned(four | {"finetuning.processes": 1}, hardware="h100-80gb")
    ddp, fsdp = (planned(four | {"finetuning.parallel": name}, hardware="h100-80gb") for name in ("ddp", "fsdp"))
    seconds, memory = zip(
        *((w.seconds, w.memory) for w in (part(made, "training sft") for made in (one, ddp, fsdp))), strict=True
    )
    assert seconds[0] == pytest.approx(4 * seconds[1]) == pytest.approx(4 * seconds[2])
    size = model_size("mini-base")[0].parameters
    assert memory[0] == memory[1] == pytest.approx(memory[2] + 0.75 * 4 * 4 * size)
    assert part(one, "greedy (test)").seconds == part(fsdp, "greedy (test)").seconds
    assert "4 processes" in fsdp.sources["time"] and "processes" not in one.sources["time"]


@pytest.mark.parametrize(
    ("settings", "options", "parts"),
    [
        ({}, {"accuracy": 1.0}, ["--accuracy 1.0", "between 0 and 1"]),
        ({}, {"hardware": "abacus"}, ["--hardware abacus", *HARDWARE]),
        ({"base_model.source": "nobody/no-model"}, {}, ["nobody/no-model", "its size is not known"]),
        ({"base_model.source": "./not-here"}, {}, ["no such folder"]),
    ],
)
def test_what_cannot_be_planned(settings, options, parts):
    with pytest.raises(ParamsError) as error:
        planned(settings, **options)
    assert all(part in str(error.value) for part in parts)


def test_the_further_training_of_the_refiner_is_planned_where_it_has_settings_of_its_own():
    """GRPO samples as much as all rounds of expert iteration together, for each reward."""
    assert "appendix/c_refiner_rl" not in [row.stage for row in planned().stages]
    rewards = ["answer", "orm"]
    given = {"refiner_rl.rounds": 3, "refiner_rl.drafts": 10, "refiner_rl.rewards": rewards}
    made = planned(given)
    (stage,) = [row for row in made.stages if row.stage == "appendix/c_refiner_rl"]
    rounds = [part(made, f"refinements, round {i}").samples for i in (1, 2, 3)]
    per_draft = load_params(HARD).refiner_rl.samples_per_draft
    assert 10 * per_draft <= rounds[0] == rounds[1] == rounds[2] <= 20 * per_draft
    for reward in rewards:
        assert part(made, f"grpo {reward}").samples == pytest.approx(sum(rounds))
    trained = [work for work in made.work if work.name.startswith("training grpo")]
    assert len(trained) == 2 and all(work.trained > part(made, "grpo orm").generated for work in trained)
    assert stage.samples < planned(given | {"refiner_rl.drafts": 20}).stages[-2].samples
