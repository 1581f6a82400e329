"""Keys change with every edit that can change an artifact, and with no other."""

import ast
import shutil
from pathlib import Path

import pytest

from clone import TINY
from glore_lib.artifacts import keys
from glore_lib.artifacts.keys import Library, code_of, fingerprint, start_of
from glore_lib.params import ROOT, digest, load_params
from glore_lib.run import Run
from glore_lib.tasks.arithmetic import Arithmetic

TASK, BACKEND = "tasks.arithmetic:Arithmetic", "sampling.transformers"
STUDENT = "method.students:fine_tune"
SAMPLES = "method.students:sample_solutions"
ROLLOUTS = "method.rollouts:rollouts"
REWARD_MODEL = "method.reward_models:train_reward_model"
SCORES = "method.reward_models:score_steps"
REFINED = "method.refinement:refine"
NUMBERS = "method.replication:SplitEvaluation.numbers"

# (start of the artifact, file, text, replacement). Each text occurs in its file.
COMPUTES = [
    (STUDENT, "models/training.py", "steps // 20", "steps // 10"),
    (STUDENT, "models/training.py", "encoded.step_ends[learn_from - 2] + 1", "encoded.step_ends[learn_from - 2]"),
    (STUDENT, "models/tokens.py", 'step + "\\n"', "step"),
    (STUDENT, "tasks/arithmetic.py", "solution :", "answer :"),
    (SAMPLES, "sampling/rows.py", "logits / temperature", "logits"),
    (SAMPLES, "sampling/plain.py", "GenerationConfig()", "GenerationConfig(top_k=3)"),
    (SAMPLES, "sampling/attention.py", 'query * kwargs["scaling"]', "query"),
    (SAMPLES, "run.py", "2**31", "2**30"),
    (ROLLOUTS, "solutions.py", "any(later.isdisjoint(", "all(later.isdisjoint("),
    (REWARD_MODEL, "method/step_labels.py", "min(axis=1)", "max(axis=1)"),
    (SCORES, "models/language_model.py", "sum(2) - 1", "sum(2)"),
    (REFINED, "solutions.py", "{BAD} {steps", "{BAD}{steps"),
    (NUMBERS, "method/evaluation.py", "scores.argmax(axis=1)", "scores.argmin(axis=1)"),
]
DOES_NOT = [
    (STUDENT, "artifacts/locks.py", '"""', '"""Reworded. ', 1),
    (STUDENT, "artifacts/store.py", "making it again", "computing it again"),
    (STUDENT, "params.py", "no such file", "the file does not exist"),
    (STUDENT, "models/training.py", "the loss is", "the training loss is"),  # an error message
    (STUDENT, "models/training.py", '"""', '"""Reworded. ', 1),
    (STUDENT, "sampling/rows.py", "logits / temperature", "logits"),  # a training does not sample
    (STUDENT, "method/rollouts.py", "self.is_correct and self", "self.is_correct or self"),
    (STUDENT, "method/expert_iteration.py", "< cap", "<= cap"),  # in the key of the data, not of the training on it
    (SAMPLES, "models/training.py", "steps // 20", "steps // 10"),
    (SAMPLES, "sampling/vllm.py", "max_num_seqs=", "max_num_batched_tokens=4096, max_num_seqs="),  # another backend
    (SAMPLES, "tasks/gsm8k.py", '"openai/gsm8k"', '"other/gsm8k"'),  # another task
    (SCORES, "method/refinement.py", "<= threshold", "< threshold"),
    (NUMBERS, "cli.py", "import", "import sys\nimport", 1),
]


@pytest.fixture(scope="module")
def before() -> Library:
    return Library(keys.PACKAGE)


def edited(folder: Path, file: str, text: str, replacement: str, count: int = -1) -> Library:
    package = folder / "glore_lib"
    shutil.copytree(keys.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    source = (package / file).read_text()
    assert text in source
    (package / file).write_text(source.replace(text, replacement, count))
    compile((package / file).read_text(), file, "exec")
    return Library(package)


def _name(case: object) -> str | None:
    return case.replace("/", ".")[:40] if isinstance(case, str) else None


@pytest.mark.parametrize(("start", "file", "text", "replacement"), COMPUTES, ids=_name)
def test_an_edit_that_computes_changes_the_key_and_names_its_module(before, tmp_path, start, file, text, replacement):
    old = before.code_key(start, TASK, BACKEND)
    new = edited(tmp_path, file, text, replacement).code_key(start, TASK, BACKEND)
    assert {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)} == {file}


@pytest.mark.parametrize("case", DOES_NOT, ids=lambda case: f"{_name(case[1])}-{_name(case[2])}")
def test_an_edit_that_does_not_compute_keeps_the_key(before, tmp_path, case):
    start, *edit = case
    assert edited(tmp_path, *edit).code_key(start, TASK, BACKEND) == before.code_key(start, TASK, BACKEND)


def test_layout_comments_annotations_assertions_and_docstrings_do_not_count(tmp_path):
    first = "def f(x: int) -> int:\n    '''Add one.'''\n    return x + 1\n"
    second = "# Add.\ndef f(x):\n\n    return (x +\n            1)  # one\n"
    third = "def f(x):\n    assert x\n    y: int = cast(int, x + 1)\n    return y"
    assert key_of(tmp_path / "a", a=first) == key_of(tmp_path / "b", a=second)
    assert key_of(tmp_path / "d", a=third) == key_of(tmp_path / "e", a="def f(x):\n    y = x + 1\n    return y")
    assert key_of(tmp_path / "c", a=first.replace("+ 1", "+ 2")) != key_of(tmp_path / "a", a=first)


def test_messages_and_casts_do_not_count_but_what_is_around_them_does(tmp_path):
    raised, returned = "raise ValueError('no', g(x)) from h(x)", "return cast(int, x)(1)"
    source = f"def f(x):\n    if x:\n        {raised}\n    print('a')\n    {returned}"
    key = key_of(tmp_path / "a", a=source)
    for i, (text, new) in enumerate([("'no', g(x)", ""), ("'a'", "'b', x"), ("cast(int, x)", "x")]):
        assert key_of(tmp_path / f"same{i}", a=source.replace(text, new)) == key
    for i, (text, new) in enumerate([("ValueError", "KeyError"), ("h(x)", "h(1)"), ("(1)", "(2)"), ("if x", "if f")]):
        assert key_of(tmp_path / f"other{i}", a=source.replace(text, new)) != key


def test_code_has_the_hash_of_what_python_3_11_dumps_on_every_version_of_python():
    """Later versions leave out empty lists, and have type parameters: a run travels between them by its keys."""
    (function,) = ast.parse("async def f(a, *b, **c):\n    return [f'{x:>{a}}' for x in b if x]\n").body
    dumped = (
        "Module(body=[AsyncFunctionDef(name='f', args=arguments(posonlyargs=[], args=[arg(arg='a')], "
        "vararg=arg(arg='b'), kwonlyargs=[], kw_defaults=[], kwarg=arg(arg='c'), defaults=[]), "
        "body=[Return(value=ListComp(elt=JoinedStr(values=[FormattedValue(value=Name(id='x', ctx=Load()), "
        "conversion=-1, format_spec=JoinedStr(values=[Constant(value='>'), FormattedValue(value=Name(id='a', "
        "ctx=Load()), conversion=-1)]))]), generators=[comprehension(target=Name(id='x', ctx=Store()), "
        "iter=Name(id='b', ctx=Load()), ifs=[Name(id='x', ctx=Load())], is_async=0)]))], decorator_list=[])], "
        "type_ignores=[])"
    )
    assert fingerprint(function) == digest(dumped)


def key_of(root: Path, start: str = "a:f", **modules: str) -> dict[str, str]:
    root.mkdir(exist_ok=True)
    for name, source in modules.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    return Library(root).code_key(start)


@pytest.mark.parametrize(
    "imports",
    [
        "from {p}.b import g",
        "from .b import g",
        "from . import b\ng = b.g",
        "from {p} import b\ng = b.g",
        "import {p}.b as b\ng = b.g",
        "from {p}.c import g",  # re-exported
    ],
)
def test_imports_are_followed_absolute_relative_and_through_other_modules(tmp_path, imports):
    def key(g: str, unused: str = "1") -> dict[str, str]:
        name = f"p{digest([imports, g, unused])}"
        modules = {
            "__init__": "",
            "a": f"{imports.format(p=name)}\ndef f(): return g()",
            "b": f"UNUSED = {unused}\ndef g(): return {g}",
            "c": f"from {name}.b import g",
        }
        return key_of(tmp_path / name, **modules)

    assert key("1") != key("2")
    assert key("1") == key("1", unused="2")


def test_imports_inside_a_function_base_classes_constants_and_side_effects_count(tmp_path):
    sources = {
        "a": "def f():\n    from .b import C\n    return C().m()",
        "b": "from .c import LIMIT, Base\nclass C(Base):\n    def m(self): return LIMIT",
        "c": "LIMIT = 1\nclass Base: x = 1\nregister(LIMIT)",
    }
    base = key_of(tmp_path / "p0", **sources)
    for i, (text, new) in enumerate(
        [("LIMIT = 1", "LIMIT = 2"), ("x = 1", "x = 2"), ("register(LIMIT)", "register(2)")]
    ):
        assert key_of(tmp_path / f"q{i}", **sources | {"c": sources["c"].replace(text, new)}) != base


def test_a_start_that_is_gone_is_an_error(before):
    with pytest.raises(KeyError):
        before.code_key("method.students:no_such_function")


def test_choices_are_recorded_where_they_matter():
    assert code_of(STUDENT, TASK, BACKEND) | {"modules": 0} == {
        "start": STUDENT, "task": TASK, "backend": "", "modules": 0,
    }  # fmt: skip
    assert code_of(SAMPLES, TASK, BACKEND)["backend"] == BACKEND
    assert code_of("method.students:solution_rows", TASK, BACKEND)["task"] == ""
    of_tasks = [code_of(STUDENT, f"tasks.{t}", BACKEND)["modules"] for t in ("gsm8k:GSM8K", "svamp:SVAMP")]
    assert of_tasks[0] != of_tasks[1] != code_of(STUDENT, TASK, BACKEND)["modules"]


def test_the_start_of_a_nested_function_is_its_definition_and_of_a_facade_its_member():
    def nested() -> None:
        """Stand for a maker."""

    assert start_of(nested).endswith(
        ":test_the_start_of_a_nested_function_is_its_definition_and_of_a_facade_its_member"
    )
    assert start_of(Run.questions) == "run:Run.questions"
    assert start_of(Arithmetic.questions) == "tasks.arithmetic:Arithmetic"


def test_seeds_hash_as_they_did_when_results_were_made():
    """Every artifact depends on this function, which no key follows."""
    assert digest([0, "samples", {"b": 1, "a": 2}]) == "8ca850c1c729"
    assert digest({"a": 2, "b": 1}) == digest({"b": 1, "a": 2})


# --- parameters ---------------------------------------------------------------------------------------------------


COMPUTING = {
    "seed": 1,
    "base_model.dtype": "bfloat16",
    "finetuning.method": "lora",
    "finetuning.max_length": 300,
    "finetuning.batch_size": 16,
    "sampling.max_new_tokens": 70,
    "student.temperature": 0.9,
    "reward_models.threshold": 0.4,
    "sampling.vllm.batch_invariant": True,
    "task.difficulty": "hard",
    "task.test_questions": 5,
}
NOT_COMPUTING = {
    "caption": "other words",
    "sampling.rows": 3,
    "sampling.ray": {"workers": 2},
    "sampling.vllm": {"tensor_parallel_size": 2, "memory_fraction": 0.5},
    "finetuning.micro_batch_size": 1,
    "finetuning.gradient_checkpointing": True,
}


@pytest.mark.parametrize("name", COMPUTING)
def test_a_parameter_that_computes_gives_another_run(name):
    assert load_params(TINY, {name: COMPUTING[name]}).digest() != load_params(TINY).digest()


@pytest.mark.parametrize("name", NOT_COMPUTING)
def test_a_parameter_that_computes_nothing_gives_the_same_run(name):
    changed = load_params(TINY, {name: NOT_COMPUTING[name]})
    assert changed != load_params(TINY)
    assert changed.digest() == load_params(TINY).digest()


def test_a_parameter_that_was_added_later_enters_no_key_at_its_default():
    params = load_params(TINY)
    assert params.sampling.vllm.computing() == {}
    assert params.model_dump()["sampling"]["vllm"]["batch_invariant"] is False  # what the manifest says
    changed = load_params(TINY, {"sampling.vllm.batch_invariant": True})
    assert changed.sampling.vllm.computing() == {"batch_invariant": True}


# Of runs on generated questions, on SVAMP and with vLLM, and of a comparison: whose hash an edit changes.
EDITS = [
    ("reporting/style.py", '"#222222"', '"#222223"', (True, True, True, True)),
    ("reporting/analysis_figures.py", '"#0072B2"', '"#0072B3"', (True, True, True, False)),  # of losses
    ("reporting/analysis_figures.py", "BINS = 5", "BINS = 6", (True, True, True, False)),  # of rows that a run saves
    ("reporting/analysis_figures.py", '"Score of the step"', '"Score"', (False, False, False, True)),
    ("method/step_labels.py", "cummax()", "cummin()", (True, True, True, False)),
    ("assets/claims.csv", "c1,", "c1 ,", (True, True, True, True)),
    ("tasks/svamp.py", "24 lamps", "25 lamps", (False, True, False, False)),
    ("tasks/benchmarks.py", "return ", "return 0 or ", (False, True, False, False)),
    ("sampling/vllm.py", "2 * self.params.rows", "3 * self.params.rows", (False, False, True, False)),
    ("sampling/ray.py", "return ", "return 0 or ", (False, False, False, False)),
    ("reporting/style.py", '"""', '"""Reworded. ', (False, False, False, False)),
    ("reporting/report.py", "return ", "return 0 or ", (False, False, False, False)),
    ("cli.py", "return ", "return 0 or ", (False, False, False, False)),
    ("artifacts/manifest.py", "72 * 3600", "71 * 3600", (False, False, False, False)),
]


def test_the_hash_of_rendered_notebooks_changes_with_what_they_show(monkeypatch, tmp_path):
    package = tmp_path / "glore_lib"
    shutil.copytree(keys.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "mini-base", "diagrams"))
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.setattr(keys, "PACKAGE", package)
    on_svamp = {"task.name": "svamp", "student.start": "one_shot"}
    runs = [load_params(TINY, changes) for changes in ({}, on_svamp, {"sampling.backend": "vllm"})]

    def hashes() -> list[str]:
        return [keys.code_hash(run) for run in [*runs, None]]

    before = hashes()
    for file, text, replacement, changes in EDITS:
        source = (package / file).read_text()
        assert text in source
        (package / file).write_text(source.replace(text, replacement, 1))
        assert tuple(a != b for a, b in zip(hashes(), before, strict=True)) == changes, file
        (package / file).write_text(source)
