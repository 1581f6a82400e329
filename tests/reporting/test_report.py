"""The report as a text: what it says of a small folder of results made here, and that it needs nothing beside it."""

import base64
import json
import re
import shutil
from collections import Counter
from io import StringIO
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup, Tag
from typer.testing import CliRunner

from clone import HEADER, TINY
from glore_lib.cli import app
from glore_lib.method.evaluation import to_frame
from glore_lib.params import ParamsError, load_params
from glore_lib.reporting.report import ALTERNATIVES, page, write_report
from glore_lib.reporting.results import DIAGRAMS, DRAW, TABLES
from glore_lib.statistics import Outcome
from glore_lib.workflow.pipeline import ROOT

NASTY = "<script>alert(1)</script> <img src=x onerror=alert(1)> **bold** $a$ [x](javascript:1) &amp;"
NUMBERS = f"""{HEADER}
tiny,m,greedy,accuracy,0.5,0.4,0.6,100
tiny,m,global,fixed_fraction,0.25,0.1,0.5,1200
tiny,m,local+orm,fixed_fraction,,,,0
tiny,m,global-local+orm,fixed_fraction_difference,-0.05,-0.1,0.004,1200
tiny,m,global-local+orm,fixed_fraction_difference_p,0.00123,,,1200
"""
FIGURE6 = f"{HEADER}\ntiny,m,greedy,accuracy,0.5,0.4,0.6,100\n"
SCORES = """id,claim,paper,task,model,seeds,ours,ci_low,ci_high,n,clusters,p,p_holm,power,verdict
c1,refining helps,GSM8K: +8,tiny,m,1,0.087,0.062,0.112,600,600,0.001,0.002,,replicated
c2,size matters,13B over 7B,tiny,m,1,,,,,,,,,not tested here
"""
PNG = base64.b64decode("iVBORw0KGgo=")


def save_notebook(path: Path, *cells: nbformat.NotebookNode) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# Title of {path.stem}"), *cells]), path
    )


def cell(*outputs: nbformat.NotebookNode) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell("source", outputs=list(outputs))


def shown(**data: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("display_data", {name.replace("_", "/"): text for name, text in data.items()})


def printed(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def save_numbers(text: str, path: Path) -> None:
    pd.read_csv(StringIO(text)).assign(seed=7, clusters=100)[TABLES["numbers"]].to_csv(path, index=False)


@pytest.fixture
def out(tmp_path) -> Path:
    """Write a finished comparison of one run: rendered notebook 06, two figures, scoreboard, and run folder."""
    out, run = tmp_path / "results" / "mini", tmp_path / "results" / "tiny"
    for name, columns in TABLES.items():
        (run / "tables").mkdir(parents=True, exist_ok=True)
        (run / "tables" / f"{name}.csv").write_text(",".join(columns) + "\n")
    save_numbers(NUMBERS, run / "tables" / "numbers.csv")
    to_frame({("greedy", "accuracy"): Outcome.of([1], ["q"])}).to_parquet(run / "tables" / "outcomes.parquet")
    about = {
        "run": "tiny",
        "caption": "A tiny task for tests",
        "model": "mini-base",
        "stands_for": "gsm8k",
        "stale": [],
        "seed": 7,
        "params": {"run": "tiny", "seed": 7},
        "code_hash": "c0de",
    }
    (run / "run.json").write_text(json.dumps(about))
    (out / "figures").mkdir(parents=True)
    save_numbers(FIGURE6, out / "figures" / "figure6.csv")
    for name in ("figure6", "novel_chart"):
        (out / "figures" / f"{name}.png").write_bytes(PNG)
    (out / "scoreboard.csv").write_text(SCORES)
    save_notebook(
        out / "06_figures.ipynb",
        nbformat.v4.new_markdown_cell("## Scoreboard\n\nHere is the rule."),
        cell(shown(text_html=pd.DataFrame({"tiny": ["replicated"]}, ["c1"])._repr_html_())),
        nbformat.v4.new_markdown_cell("## Table 3 of all\n\nIn words."),
        cell(shown(text_html=pd.DataFrame({"fixed": ["25.0 [10.0, 50.0] (n=1200)"]}, ["global"])._repr_html_())),
        nbformat.v4.new_markdown_cell("## Figure 6 of all"),
        *(nbformat.v4.new_code_cell(f'results.save_figure(c, "{name}", out)', outputs=[shown(image_png="AAAA")])
          for name in ("figure6", "novel_chart")),
    )  # fmt: skip
    save_notebook(run / "05_evaluation.ipynb", cell(printed("kept back")))
    save_notebook(run / "appendix" / "a1 more.ipynb")
    stages = [{"stage": "05_evaluation", "status": "done", "seconds": 3723.2, "tokens": {"tokens_generated": 12345}}]
    machine = {
        "versions": {"python": "3.11.1", "torch": "2.13.0"}, "git": {"commit": "abc"}, "code_hash": "c0de",
        "hardware": {"cpu": "A CPU", "cpus": 2, "memory_gib": 8, "gpus": [], "system": "Linux x86_64"},
    }  # fmt: skip
    held = {"run": "tiny", "params_hash": "0", "params": load_params(TINY).model_dump(mode="json"), "seed": 7}
    (run / "manifest.json").write_text(
        json.dumps(held | machine | {"status": "done", "seconds": 3723.2, "stages": stages})
    )
    runs = {"tiny": {"folder": "../tiny", "params_hash": "0", "code_hash": "c0de"}}
    stages = [{"stage": "06_figures", "status": "done", "seconds": 12}]
    manifest = machine | {"status": "done", "seconds": 12.2, "runs": runs, "stages": stages}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def change(out: Path, file: str = "manifest.json", **values: object) -> None:
    path = out / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def read(out: Path) -> BeautifulSoup:
    return BeautifulSoup(page(out), "html.parser")


def words(element: Tag) -> str:
    return " ".join(element.get_text(" ").split())


def section(soup: BeautifulSoup, title: str) -> Tag:
    (heading,) = [heading for heading in soup.find_all("h2") if heading.get_text() == title]
    return heading.find_parent("section")


def rows(table: Tag) -> list[list[str]]:
    """Return the rows of a table, its header apart."""
    return [[words(cell) for cell in row.find_all(["th", "td"])] for row in table.tbody.find_all("tr")]


def headings(soup: BeautifulSoup) -> list[str]:
    return [heading.get_text() for heading in soup.find_all("h2")]


def test_summary_has_runs_verdicts_and_what_refining_adds(out):
    sentences = [words(paragraph) for paragraph in section(read(out), "Summary").find_all("p")]
    assert sentences == [
        "This page compares the paper with tiny (A tiny task for tests, mini-base, 1 seed, 62 minutes).",
        "Of the paper's claims: on tiny, 1 replicated and 0 did not, of 1 that are judged.",
    ]
    drawn = out / "figures" / "figure6.csv"
    save_numbers(FIGURE6 + "tiny,m,reranked,accuracy,0.75,0.7,0.8,100\n", drawn)
    assert words(section(read(out), "Summary")).endswith(
        "changes accuracy from 50.0 % [40.0, 60.0] (n = 100) to 75.0 % [70.0, 80.0] (n = 100) on tiny."
    )
    drawn.unlink()
    assert [words(paragraph) for paragraph in section(read(out), "Summary").find_all("p")] == sentences
    drawn.write_text(HEADER)
    with pytest.raises(ParamsError, match=r"figure6\.csv: must be a CSV file with the columns task, model, seed"):
        page(out)


def test_claims_have_counts_the_rule_and_a_line_each_that_was_tested(out):
    claims = section(read(out), "Claims")
    counts, full, lines = claims.find_all("table")
    assert rows(counts) == [["replicated", "1"], ["not tested here", "1"]]
    assert words(claims.details.summary).startswith("Rule of the verdicts")
    assert full.find_parent("details") == claims.details and "the rule" in words(claims.details)
    assert lines.find_parent("details") is None
    assert rows(lines) == [["c1: refining helps", "✓ +8.7 [6.2, 11.2]"]]


def test_details_are_the_sections_of_notebook_06_folded_and_without_code(out):
    details = section(read(out), "Details")
    assert [words(part.summary) for part in details.find_all("details", recursive=False)] == ["Table 3 of all"]
    assert "In words." in words(details) and "save_figure" not in words(details) and "source" not in words(details)
    assert rows(details.find("table")) == [["global", "25.0 [10.0, 50.0] (n=1200)"]]
    assert [cell["scope"] for cell in details.find("table").find_all("th")][-2:] == ["col", "row"]


def test_figures_are_the_saved_ones_with_alt_texts_and_the_numbers_drawn(out):
    results = section(read(out), "Accuracy")  # with figure 6, which is not folded
    images = results.find_all("img")
    assert [image["alt"] for image in images] == [ALTERNATIVES["figure6"], "Figure novel_chart"]
    assert all(base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == PNG for image in images)
    assert rows(results.details.table) == [["tiny", "m", "7", "greedy", "accuracy", "0.5", "0.4", "0.6", "100", "100"]]


def test_every_figure_has_an_alt_text():
    assert set(ALTERNATIVES) == {*DRAW, *DIAGRAMS}


def test_links_are_relative_and_lead_to_the_notebooks(out):
    notebooks = section(read(out), "Notebooks")
    assert rows(notebooks.table) == [["Title of 05_evaluation", "tiny"], ["Title of a1 more", "tiny"]]
    links = [link["href"] for link in notebooks.find_all("a")]
    assert links == ["../tiny/05_evaluation.ipynb", "../tiny/appendix/a1%20more.ipynb"]
    assert all((out / unquote(link)).exists() for link in links)


def test_manifests_are_tables(out):
    comparison, run = section(read(out), "Environment").find_all("details")
    assert words(comparison.summary) == "Manifest: Comparison" and words(run.summary) == "Manifest: tiny"
    found = dict(rows(run.table))
    expected = {"seed": "7", "versions.torch": "2.13.0", "hardware.cpu": "A CPU",
                "git.commit": "abc", "seconds": "3723.2",
                "code_hash": "c0de", "stages.0.seconds": "3723.2", "params.run": "tiny"}  # fmt: skip
    assert expected.items() <= found.items()
    assert dict(rows(comparison.table))["runs.tiny.folder"] == "../tiny"


def test_what_the_folder_lacks_is_left_out(out):
    every = ["Summary", "Claims", "Accuracy", "Details", "Notebooks", "Environment"]
    assert headings(read(out)) == every
    for path in (*out.parent.rglob("*.ipynb"), out / "scoreboard.csv"):
        path.unlink()
    soup = read(out)
    assert headings(soup) == ["Summary", "Environment"]
    assert [words(link) for link in soup.nav.find_all("a")] == ["Summary", "Environment"]


def test_a_run_that_failed_is_shown_as_such(out):
    stages = [{"run": "tiny", "stage": "02_orm", "status": "failed", "error": "tiny 02_orm failed in cell [3]: E: x"}]
    change(out.parent / "tiny", status="failed", stages=stages)
    (notice,) = read(out).find_all(class_="notice")
    assert words(notice) == "tiny is not finished (failed). tiny 02_orm failed in cell [3]: E: x"


def test_trainings_that_lost_data_are_named(out):
    change(out.parent / "tiny", warnings=["refiner stays untrained: there was nothing to learn from."])
    (notice,) = read(out).find_all(class_="notice")
    assert words(notice) == "tiny: refiner stays untrained: there was nothing to learn from."


def test_artifacts_of_older_code_are_named(out):
    assert not read(out).find_all(class_="notice")
    change(out.parent / "tiny", "run.json", stale=["orm-12ab", "sorm-34cd"])
    (notice,) = read(out).find_all(class_="notice")
    assert words(notice) == "tiny uses artifacts computed by older code: orm-12ab, sorm-34cd."


def test_what_models_write_stays_text(out):
    """Printed, in frames, in captions and claims, in Markdown, and in outputs that no notebook of ours has."""
    frame = pd.DataFrame({NASTY: [NASTY]})._repr_html_()
    hostile = [
        printed(NASTY), shown(text_html=frame), shown(text_html=NASTY), shown(text_markdown=NASTY, text_plain="plain"),
        shown(**{"image_svg+xml": f"<svg>{NASTY}</svg>"}), shown(application_javascript="alert(1)"),
        shown(text_html='<a href="javascript:1" onclick="1">x</a><style>p {}</style><iframe src="/x"></iframe>'),
        shown(text_html='<td style="background-color:#fff;background:url(http://x.org/y);position:fixed">styled</td>'),
    ]  # fmt: skip
    links = nbformat.v4.new_markdown_cell(f"{NASTY} ![x](http://x.org/y.png) ![y](//x.org/y.png) [z](data:text/html,1)")
    begin = nbformat.v4.new_markdown_cell(f"## {NASTY}")
    save_notebook(out / "06_figures.ipynb", begin, links, cell(*hostile), cell(*hostile))
    save_notebook(out.parent / "tiny" / "appendix" / f"{NASTY.replace('/', '')}.ipynb")
    (out / "scoreboard.csv").write_text(SCORES.replace("not tested here", f'"{NASTY}"'))
    change(out.parent / "tiny", "run.json", caption=NASTY, stale=[NASTY])
    change(out, finished=NASTY)
    soup = read(out)
    assert words(soup).count("<script>alert(1)</script>") >= 12
    dangerous = {"script", "iframe", "object", "embed", "svg", "form", "link", "base"}
    assert {tag.name for tag in soup.find_all()} & dangerous == set()
    assert len(soup.find_all("style")) == 1
    assert all(image["src"].startswith("data:image/") for image in soup.find_all("img"))
    assert not [name for tag in soup.find_all() for name in tag.attrs if name.startswith("on")]
    styles = {tag["style"] for tag in soup.find_all(style=True)}
    assert not [style for style in styles if "url" in style or "position" in style]
    schemes = {urlsplit(link["href"]).scheme for link in soup.find_all("a")}
    assert schemes <= {"", "https"}


def test_the_page_needs_nothing_beside_it_and_tells_no_place(out):
    params = load_params(TINY).model_dump(mode="json")
    params["base_model"]["source"] = "/srv/models/mine"
    change(out.parent / "tiny", params=params)
    change(out.parent / "tiny", "run.json", model="/srv/models/mine")
    text = page(out)
    soup = BeautifulSoup(text, "html.parser")
    assert "mine" in words(soup)
    assert "/srv" not in text and str(out) not in text and str(ROOT) not in text
    assert "url(" not in text and "@import" not in text
    assert [tag["src"][:11] for tag in soup.find_all(src=True)] == ["data:image/"] * 2
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    outside = [link["href"] for link in soup.find_all("a") if link["href"].startswith("http")]
    assert outside == ["https://arxiv.org/abs/2402.10963"]


def test_headings_are_in_order_ids_are_single_and_boxes_that_scroll_can_be_reached(out):
    soup = read(out)
    levels = [int(tag.name[1]) for tag in soup.find_all(re.compile(r"^h\d$"))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = Counter(tag["id"] for tag in soup.find_all(id=True))
    assert set(ids.values()) == {1}
    assert {link["href"][1:] for link in soup.find_all("a") if link["href"].startswith("#")} <= set(ids)
    for box in soup.find_all(class_="scroll"):
        assert (box["tabindex"], box["role"]) == ("0", "region") and box["aria-label"]
    assert all(any("scroll" in p.get("class", []) for p in table.parents) for table in soup.find_all("table"))
    assert all(cell.get("scope") for cell in soup.find_all("th"))


def test_the_same_folder_gives_the_same_bytes_wherever_it_lies(out, tmp_path):
    first = write_report(out).read_bytes()
    assert write_report(out).read_bytes() == first
    shutil.copytree(out.parent, tmp_path / "elsewhere")
    assert write_report(tmp_path / "elsewhere" / out.name).read_bytes() == first


@pytest.mark.parametrize("content", ["", "value", "task,model\n1,2", "a,b\n1,2,3,4\n", "\xff\xfe"])
@pytest.mark.parametrize("name", ["tiny/tables/numbers.csv", "tiny/tables/cost.csv", "mini/scoreboard.csv"])
def test_a_table_that_is_none_is_named(out, name, content):
    (out.parent / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ParamsError, match=rf"{name}: must be a CSV file with the columns ") as error:
        page(out)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{}", "[]", "\xff"])
def test_a_notebook_that_is_none_is_named(out, content):
    (out.parent / "tiny" / "05_evaluation.ipynb").write_bytes(content.encode("latin-1"))
    with pytest.raises(ParamsError, match=r"05_evaluation\.ipynb: is not a notebook"):
        page(out)


def test_the_command(out):
    result = CliRunner().invoke(app, ["report", str(out)])
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"done: {out / 'report.html'}\n", "")
    assert (out / "report.html").read_text() == page(out)


@pytest.mark.parametrize("name", ["nowhere", "figures", "scoreboard.csv"])
def test_the_command_refuses_what_is_no_output_folder(out, name):
    result = CliRunner().invoke(app, ["report", str(out / name)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and "manifest" in result.stderr and result.stderr.count("\n") == 1
    assert not (out / name / "report.html").exists()
