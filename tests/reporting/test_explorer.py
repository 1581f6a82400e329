"""The explorer without a browser: what it shows of a run, at any threshold, and of a draft of one's own."""

import json
from dataclasses import replace

import pandas as pd
import papermill
import pytest
from test_examples import an_example
from test_replication import SETTINGS, forbid_work, scripted  # noqa: F401 a fixture

from clone import TINY
from glore_lib.method.replication import Replication
from glore_lib.params import ParamsError
from glore_lib.reporting import explorer
from glore_lib.reporting.examples import DRAFT_FILTERS, Answer, to_html
from glore_lib.reporting.explorer import Explorer, Panel, is_made, open_explorer, runs
from glore_lib.run import Run
from glore_lib.solutions import split_steps
from glore_lib.workflow.pipeline import ROOT
from tiny import Scripted, open_tiny, solver

NASTY = "<script>alert(1)</script> <img src=x onerror=alert(1)> $a$ & 'b' \"c\""
DOTTED = {key.replace("__", "."): value for key, value in SETTINGS.items()}


@pytest.fixture
def opened(scripted, tiny_base, monkeypatch) -> Explorer:  # noqa: F811
    """Of a run of which everything is made, by a student that is right half the time."""
    forbid_work(monkeypatch)
    return Explorer(Replication(open_tiny(tiny_base, scripted[0], **SETTINGS)))


@pytest.fixture
def sampler(opened, monkeypatch) -> Scripted:
    """Write what the run's models wrote."""
    sampler = Scripted(opened.run.tokenizer, solver(opened.run))
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    return sampler


def test_at_the_runs_own_threshold_all_is_as_stored_and_nothing_is_sampled(opened):
    for _, sample_id in opened.drafts("all drafts"):
        shown = opened.stored(sample_id, opened.threshold)
        kinds = ["local+orm", "local+sorm", "global"]
        assert split_steps(shown.answers[0].text) == split_steps(opened.outcomes.drafts.loc[sample_id, "text"])
        for kind in kinds:
            stored = opened.outcomes.refinements(kind).loc[sample_id]
            made = next(answer for answer in shown.answers if answer.name == kind)
            assert (made.text, made.is_correct) == (stored["text"], stored["is_correct"])
        assert shown.first_error("sorm") == opened.outcomes.found_errors("sorm")[sample_id]


def test_what_is_refined_live_is_what_was_stored(opened, sampler):
    for sample_id, draft in opened.outcomes.drafts.iterrows():
        question = opened.run.questions("test")[draft["question_id"]].question
        for kind in ("local+orm", "local+sorm", "local+oracle"):
            stored = opened.outcomes.refinements(kind).loc[sample_id]
            opened._written.clear()
            assert opened.refine(question, draft["text"], [stored["first_error"]]) == [stored["text"]]
    assert sampler.requests and set(sampler.temperatures) == {0.0}


def test_the_orm_picks_as_in_the_evaluation(opened):
    """At the run's own threshold, by scores and right answers that are stored."""
    candidates, picked = opened.lab.test.candidates, {}
    names = {"draft": "draft", "global": "global", "local": "local+sorm"}
    for sample_id in opened.outcomes.drafts.index:
        answers = {answer.name: answer for answer in opened.stored(sample_id, opened.threshold).answers}
        for name, (_, scores) in candidates.items():
            stored = scores.read().query("sample_id == @sample_id").sort_values("step")["score"].iloc[-1]
            assert answers[names[name]].score == pytest.approx(stored, abs=1e-5)
        (pick,) = [answer for answer in answers.values() if answer.is_picked]
        assert pick.score == max(answers[name].score for name in names.values())
        picked[sample_id] = pick.is_correct
    assert picked == opened.lab.test.choices["reranked"].to_dict()


def test_ties_go_to_the_draft_then_to_the_global_refinement(opened, monkeypatch):
    shown = opened.stored(opened.outcomes.drafts.index[0], opened.threshold)
    scores = dict.fromkeys(("draft", "global", "local+sorm"), 0.5) | {"local+orm": 0.9}
    monkeypatch.setattr(opened, "_answer_score", lambda _, text, __: scores[text])
    monkeypatch.setattr(opened, "refine", lambda *_: ["", "", ""])
    monkeypatch.setattr(opened, "_answer", lambda name, text, _: Answer(name, name, "", None))
    draft = replace(shown.answers[0], text="draft")

    def picked() -> list[str]:
        made = opened._with_refinements(replace(shown, answers=[draft]))
        return [answer.name for answer in made.answers if answer.is_picked]

    assert picked() == ["draft"]
    scores["global"] = scores["local+sorm"] = 0.6
    assert picked() == ["global"]


def test_an_answer_without_a_step_scores_0(opened):
    assert opened._answer_score("tom has 4 apples . how many ?", "") == 0.0


def test_drafts_are_searched_by_words_of_question_and_draft(opened):
    every = opened.drafts("all drafts")
    assert opened.drafts("all drafts", "  ") == every
    questions = opened.run.questions("test")
    for title, sample_id in every[:3]:
        draft = opened.outcomes.drafts.loc[sample_id]
        words = f"{questions[draft['question_id']].question.split()[0].upper()} {split_steps(draft['text'])[-1]}"
        found = opened.drafts("all drafts", words)
        assert (title, sample_id) in found and set(found) <= set(every)
    assert opened.drafts("all drafts", "zebra") == []


def test_another_threshold_moves_the_first_error_and_with_it_the_mark_once(opened, sampler):
    sample_id = next(s for s, text in opened.outcomes.drafts["text"].items() if len(split_steps(text)) > 2)
    steps = split_steps(opened.outcomes.drafts.loc[sample_id, "text"])
    scores = opened.stored(sample_id, 0.5).steps["sorm"]
    at = int(scores.idxmin())  # the first of the lowest: at a threshold of just that, it is the first error
    sampler.calls.clear()
    opened._written.clear()
    shown = opened.stored(sample_id, float(scores.min()))
    assert shown.first_error("sorm") == at
    made = opened._written[shown.question, shown.answers[0].text, at]
    assert next(answer.text for answer in shown.answers if answer.name == "local+sorm") == made
    opened._written.pop((shown.question, shown.answers[0].text, at))
    assert opened.refine(shown.question, shown.answers[0].text, [at]) == [made]
    assert f"[BAD] {steps[at - 1]}" in sampler.prompts[-1]
    asked = len(sampler.requests)
    assert opened.stored(sample_id, float(scores.min())).first_error("sorm") == at
    assert len(sampler.requests) == asked
    assert opened.stored(sample_id, 1.0).first_error("sorm") == 1
    assert opened.stored(sample_id, 0.0).first_error("sorm") == 0


def test_scores_of_ones_own_draft_are_those_that_are_stored(opened, sampler, monkeypatch):
    sample_id, draft = next(opened.outcomes.drafts.iterrows())
    question = opened.run.questions("test")[draft["question_id"]]
    shown = opened.own(question.question, draft["text"], 0.5)
    stored = opened.stored(sample_id, 0.5)
    for kind in ("orm", "sorm"):
        assert shown.steps[kind].tolist() == pytest.approx(stored.steps[kind].tolist(), abs=1e-5)
    assert shown.steps["exact"].tolist() == stored.steps["exact"].tolist()  # it is a question of the run
    assert (shown.reference_answer, shown.answers[0].is_correct) == (question.reference_answer, draft["is_correct"])
    assert [answer.name for answer in shown.answers] == ["draft", "local+orm", "local+sorm", "global"]


def test_of_a_question_that_no_one_knows_nothing_is_called_right(opened, monkeypatch):
    sampler = Scripted(opened.run.tokenizer, lambda *_: "#### 4")
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    shown = opened.own("tom has 4\n apples . how many ?", "\ntom has 2 + 2 = 4 apples\n\n#### 4", 0.5)
    assert list(shown.steps) == ["text", "orm", "sorm"]
    assert {answer.is_correct for answer in shown.answers} == {None}
    assert sampler.prompts[-1] == "tom has 4 apples . how many ?\n[BAD] tom has 2 + 2 = 4 apples\n#### 4\nsolution :\n"
    assert replace(shown.answers[-1], score=None, is_picked=False) == Answer("global", "#### 4", "4", None)


def test_mistakes_are_told_in_one_clear_line(opened):
    long = "\n".join(["tom has 2 + 2 = 4 apples"] * 60)
    for question, draft, message in (
        (" \n", "a", "Your question is empty: write one."),
        ("a", " \n", "Your draft is empty: write one, one step per line."),
        ("a", long, "tokens: at most 368 leave the model room"),  # 384 positions, 16 new tokens
    ):
        with pytest.raises(ParamsError) as error:
            opened.own(question, draft, 0.5)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_words_that_the_model_does_not_know_are_named(opened):
    assert opened.unknown_words("tom has 4 bananas .\nbananas\tcoins é") == ["bananas", "bananas\tcoins", "é"]
    assert opened.unknown_words("tom has 4 apples .\n#### 4") == []


def test_steps_with_unknown_words_are_marked_beside_their_scores(opened, sampler):
    question = next(iter(opened.run.questions("test").values())).question
    shown = opened.own(question, "tom has 4 kiwis and figs\n#### 4", 0.5)
    assert list(shown.steps["unknown"]) == ["kiwis, figs", ""]
    assert "Not in the vocabulary" in to_html(shown) and "kiwis, figs" in to_html(shown)
    assert shown.scored == ["orm", "sorm"]
    assert "unknown" not in opened.own(question, "tom has 4 apples\n#### 4", 0.5).steps


def test_all_text_is_escaped():
    shown = an_example(NASTY, score=0.2)
    html = to_html(shown)
    assert "&lt;script&gt;" in html and "<script" not in html and "<img" not in html
    assert html.count("0.20") == 2 and "step 1" in html


def panel(tiny_base, store) -> Panel:
    params = DOTTED | {"base_model.source": str(tiny_base)}
    return explorer.explore(str(TINY), params, str(store))


def test_the_widgets_show_what_is_chosen(scripted, tiny_base, sampler, opened):  # noqa: F811
    shown = panel(tiny_base, scripted[0])
    assert list(shown.run.options) == ["tiny"] and list(shown.show.options) == list(DRAFT_FILTERS)
    assert shown.threshold.value == 0.5 and shown.count.value == "6 of 6 drafts"
    assert shown.draft.value == shown.draft.options[0][1]
    assert "First error at T = 0.5" in shown.stored.value
    shown.draft.index = 1
    assert shown.question.value == shown.text.value == ""
    before = shown.stored.value
    shown.threshold.value = 1.0
    assert shown.stored.value != before and "SORM: step 1" in shown.stored.value
    assert "picked by the ORM" in shown.stored.value
    shown.show.value = "wrong drafts"
    assert [value for _, value in shown.draft.options] == opened.outcomes.chosen("wrong drafts")
    shown.copy.click()
    displayed = opened.stored(shown.draft.value, 0.5)
    assert shown.question.value == displayed.question
    assert split_steps(shown.text.value) == list(displayed.steps["text"])
    shown.button.click()
    assert shown.own.value and shown.message.value == ""
    shown.text.value = "banana"
    shown.button.click()
    assert "not in the model" in shown.message.value.lower() and "banana" in shown.message.value
    shown.text.value = ""
    shown.button.click()
    assert "Your draft is empty" in shown.message.value and shown.own.value == ""


def test_ones_own_draft_stays_and_is_shown_at_the_threshold(scripted, tiny_base, sampler, opened):  # noqa: F811
    shown = panel(tiny_base, scripted[0])
    own = (opened.stored(shown.draft.value, 0.5).question, "tom has 4 apples\n#### 4")
    shown.question.value, shown.text.value = own
    shown.button.click()
    assert "First error at T = 0.5" in shown.own.value
    shown.threshold.value = 0.25
    assert "First error at T = 0.25" in shown.own.value and "First error at T = 0.25" in shown.stored.value
    shown.draft.index = 2
    shown.search.value = "zebra"
    assert shown.count.value == "0 of 6 drafts" and "no draft" in shown.stored.value
    shown.copy.click()  # there is nothing to copy
    shown.search.value = ""
    assert (shown.question.value, shown.text.value) == own
    assert "First error at T = 0.25" in shown.own.value


def test_another_run_is_shown_at_its_own_threshold_without_results_of_the_last(
    scripted, tiny_base, sampler, opened, monkeypatch  # noqa: F811
):  # fmt: skip
    other = Explorer(Replication(opened.run), "validation")
    monkeypatch.setattr(explorer, "open_explorer", lambda path, *_: {"a": opened, "b": other}[path])
    shown = Panel({"a": "a", "b": "b"}, {}, "")
    shown.copy.click()
    shown.button.click()
    shown.threshold.value = 0.9
    text = shown.text.value
    shown.run.value = "b"  # its drafts have other ids
    assert shown.threshold.value == 0.5 and shown.draft.value in other.outcomes.drafts.index
    assert shown.own.value == shown.message.value == "" and shown.text.value == text


def test_a_kind_without_drafts_is_said(scripted, tiny_base, opened, monkeypatch):  # noqa: F811
    monkeypatch.setitem(DRAFT_FILTERS, "none", lambda o: o.right & ~o.right)
    shown = panel(tiny_base, scripted[0])
    shown.show.value = "none"
    assert shown.count.value == "0 of 6 drafts" and "no draft" in shown.stored.value


def test_runs_to_choose_from_are_ones_own_and_those_that_are_made(tmp_path, tiny_base, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.yaml").write_text(TINY.read_text().replace("run: tiny", f"run: {name}"))
    (tmp_path / "broken.yaml").write_text("run: [")
    store = tmp_path / "artifacts"
    run = explorer.open_run(str(tmp_path / "b.yaml"), {}, str(store))
    artifact = run.store.frame("sft-data", "solutions", {}, lambda: pd.DataFrame(
        {"question_id": ["q"], "text": ["t"], "source": ["s"]}))  # fmt: skip
    assert not is_made(run.params, store)
    run.finish("05_evaluation")
    assert is_made(run.params, store)
    monkeypatch.setattr(explorer, "open_run", lambda *_: pytest.fail("opened: that may read a data set of the hub"))
    assert list(runs(str(tmp_path / "c.yaml"), {}, str(store))) == ["c", "b"]
    (artifact.folder / "data.parquet").unlink()
    (artifact.folder / "artifact.json").unlink()
    artifact.folder.rmdir()
    assert list(runs(str(tmp_path / "c.yaml"), {}, str(store))) == ["c"]


def test_what_is_not_made_yet_is_announced_with_its_minutes(scripted, tiny_base, opened, capsys):  # noqa: F811
    params = DOTTED | {"base_model.source": str(tiny_base), "caption": "another"}
    run = opened.run
    for record in (run.store.root / "stages").glob("tiny-*/*.json"):
        record.unlink()
    open_explorer(str(TINY), params, str(scripted[0]))
    assert "has not been computed. Computing it now takes about" in capsys.readouterr().out
    open_explorer(str(TINY), params, str(scripted[0]))
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_notebook_runs_without_a_browser(scripted, tiny_base, tmp_path):  # noqa: F811
    made = papermill.execute_notebook(
        ROOT / "notebooks" / "explorer.ipynb", tmp_path / "out.ipynb", cwd=ROOT / "notebooks", kernel_name="python3",
        parameters={"params_file": str(TINY), "artifacts": str(scripted[0]),
                    "overrides": DOTTED | {"base_model.source": str(tiny_base)}}, progress_bar=False,
    )  # fmt: skip
    outputs = [output for cell in made.cells for output in cell.get("outputs", [])]
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)
    assert "Traceback" not in json.dumps(outputs)
