"""The report as a text: what it says of a small folder of results made here, and that it needs nothing beside it."""

import json
import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup, Tag
from typer.testing import CliRunner

from clone import HEADER, TINY
from glore_lib.cli import app
from glore_lib.params import ParamsError, load_params
from glore_lib.reporting.report import EXAMPLE, page, write_report
from glore_lib.workflow.pipeline import ROOT

NASTY = "<script>alert(1)</script> <img src=x onerror=alert(1)> **bold** $a$ [x](javascript:1) &amp;"
TABLE3 = f"""{HEADER}
tiny,m,global,fixed_fraction,0.25,0.1,0.5,1200
tiny,m,local+orm,fixed_fraction,,,,0
tiny,m,global-local+orm,fixed_fraction_difference,-0.05,-0.1,0.004,1200
tiny,m,global-local+orm,fixed_fraction_difference_p,0.00123,,,1200
"""
FIGURE6 = f"{HEADER}\ntiny,m,greedy,accuracy,0.5,0.4,0.6,100\n"
SCORES = """id,claim,paper,task,model,ours,ci_low,ci_high,n,verdict
c1,refining helps,GSM8K: +8,tiny,m,0.087,0.062,0.112,600,replicated
c2,size matters,13B over 7B,tiny,m,,,,,not tested here
"""
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>'


def save_notebook(path: Path, *cells: nbformat.NotebookNode) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# Title of {path.stem}"), *cells]), path
    )


def example(*outputs: nbformat.NotebookNode, tags: tuple[str, ...] = (EXAMPLE,)) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell("source", outputs=list(outputs), metadata={"tags": list(tags)})


def shown(**data: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("display_data", {name.replace("_", "/"): text for name, text in data.items()})


def printed(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("stream", name="stdout", text=text)


@pytest.fixture
def out(tmp_path) -> Path:
    """A finished run with a table, two figures, a scoreboard, and notebooks of which one shows an example."""
    out = tmp_path / "results"
    files = {
        "tables/table3.csv": TABLE3, "figures/figure6.csv": FIGURE6, "figures/figure6.svg": SVG,
        "figures/novel_chart.svg": SVG, "scoreboard.csv": SCORES,
    }  # fmt: skip
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    save_notebook(
        out / "tiny" / "05_evaluation.ipynb", example(printed("shown\n")), example(printed("kept back"), tags=())
    )
    save_notebook(out / "tiny" / "appendix" / "a1 more.ipynb")
    params = load_params(TINY).model_dump(mode="json")
    stage = {"run": "tiny", "stage": "05_evaluation", "status": "done", "seconds": 3723.2}
    manifest = {
        "status": "done", "finished": "2026-01-02T03:04:05+00:00", "seconds": 3735.2, "code_hash": "c0de", "git": {},
        "runs": {"tiny": {"params_hash": "0", "seed": 7, "params": params}},
        "stages": [stage | {"tokens": {"tokens_generated": 12345}},
                   {"run": None, "stage": "06_figures", "status": "done", "seconds": 12, "tokens": {}}],
        "versions": {"python": "3.11.1", "torch": "2.13.0"},
        "hardware": {"cpu": "A CPU", "cpus": 2, "memory_gib": 8, "gpus": [], "system": "Linux x86_64"},
    }  # fmt: skip
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def change(out: Path, **values: object) -> None:
    path = out / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def read(out: Path) -> BeautifulSoup:
    return BeautifulSoup(page(out), "html.parser")


def words(element: Tag) -> str:
    return " ".join(element.get_text(" ").split())


def rows(soup: BeautifulSoup, caption: str) -> list[list[str]]:
    """The rows of the table with a caption, its header apart."""
    (found,) = [table for table in soup.find_all("table") if table.caption and words(table.caption) == caption]
    return [[words(cell) for cell in row.find_all(["th", "td"])] for row in found.tbody.find_all("tr")]


def headings(soup: BeautifulSoup) -> list[str]:
    return [heading.get_text() for heading in soup.find_all("h2")]


def test_tables_show_numbers_with_interval_and_n(out):
    soup = read(out)
    assert rows(soup, "tiny, m: per cent") == [
        ["Global", "25.0 [10.0, 50.0] n = 1,200"], ["Local + ORM", "n = 0"],
    ]  # fmt: skip
    assert rows(soup, "tiny, m: differences, in points") == [
        ["Global against Local + ORM", "-5.0 [-10.0, 0.4] n = 1,200", "0.0012"],
    ]  # fmt: skip


def test_summary(out):
    soup = read(out)
    text = words(soup.find("section", attrs={"aria-labelledby": "summary"}))
    for part in ("A tiny task for tests", "mini-base", "4 train, 2 validation, 4 test", " 7 ", "1:02:03", "1:02:15"):
        assert part in text
    assert "2 CPUs, 8 GiB of memory, no GPU (Linux x86_64); finished 2026-01-02." in text
    assert rows(soup, "Per cent [95 % interval], on the test questions") == [
        ["Greedy drafts that are right", "50.0 [40.0, 60.0] n = 100"],
    ]  # fmt: skip


def test_scoreboard_shows_claims_and_counts_verdicts(out):
    soup = read(out)
    assert rows(soup, "Claims by verdict") == [["replicated", "1"], ["not tested here", "1"]]
    assert rows(soup, "Claims: ours in per cent or points [95 % interval]") == [
        ["c1: refining helps", "GSM8K: +8", "8.7 [6.2, 11.2] n = 600 replicated"],
        ["c2: size matters", "13B over 7B", "not tested here"],
    ]  # fmt: skip


def test_figures_come_with_alt_texts_and_the_numbers_drawn(out):
    soup = read(out)
    section = soup.find("section", attrs={"aria-labelledby": "figures"})
    assert [words(title) for title in section.find_all("h3")] == [
        "Figure 6: reranking the draft and its refinements", "Novel chart",
    ]  # fmt: skip
    for image in section.find_all("img"):
        assert image["alt"]
        assert image["src"].startswith("data:image/svg+xml;base64,")
    assert rows(soup, "The numbers drawn") == [["tiny", "m", "greedy", "accuracy", "0.500", "0.400", "0.600", "100"]]


def test_examples_are_the_outputs_of_the_cells_that_are_tagged(out):
    text = words(read(out).find("section", attrs={"aria-labelledby": "examples"}))
    assert text == "Examples tiny shown"


def test_an_example_that_is_a_picture_says_so_or_what_its_cell_says(out):
    picture, other = example(shown(image_png="iVBORw0KGgo=")), example(shown(image_png="iVBORw0KGgo="))
    other.metadata["alt"] = 'A "draft"'
    save_notebook(out / "tiny" / "05_evaluation.ipynb", picture, other)
    images = read(out).find("section", attrs={"aria-labelledby": "examples"}).find_all("img")
    assert [image["alt"] for image in images] == ["A picture of the example, which the notebook draws", 'A "draft"']


def test_links_are_relative_and_lead_to_the_notebooks(out):
    section = read(out).find("section", attrs={"aria-labelledby": "notebooks"})
    links = {link["href"]: words(link) for link in section.find_all("a")}
    assert links == {
        "tiny/05_evaluation.ipynb": "Title of 05_evaluation", "tiny/appendix/a1%20more.ipynb": "Title of a1 more",
    }  # fmt: skip


def test_what_the_folder_lacks_is_left_out(out):
    every = ["Summary", "Scoreboard: the paper's claims and ours", "Tables", "Figures", "Examples"]
    assert headings(read(out)) == [*every, "Notebooks as they ran", "Environment"]
    for name in ("tables", "figures", "tiny"):
        shutil.rmtree(out / name)
    (out / "scoreboard.csv").unlink()
    soup = read(out)
    assert headings(soup) == ["Summary", "Environment"]
    assert [link["href"] for link in soup.nav.find_all("a")] == ["#summary", "#environment"]


def test_a_run_that_failed_is_shown_as_such(out):
    stages = [{"run": "tiny", "stage": "02_orm", "status": "failed", "error": "tiny 02_orm failed in cell [3]: E: x"}]
    change(out, status="failed", finished=None, stages=stages)
    notice = words(read(out).find(class_="notice"))
    assert notice.startswith("This run is not finished (failed)")
    assert notice.endswith("tiny 02_orm failed in cell [3]: E: x")


def test_what_models_write_stays_text(out):
    """In what is printed and in frames, in captions and claims, and in outputs that no notebook of ours has."""
    frame = pd.DataFrame({NASTY: [NASTY]})._repr_html_()
    hostile = [
        printed(NASTY), shown(text_html=frame), shown(text_html=NASTY), shown(text_markdown=NASTY, text_plain="plain"),
        shown(**{"image_svg+xml": f"<svg>{NASTY}</svg>"}), shown(application_javascript="alert(1)"),
        shown(text_html='<a href="javascript:1" onclick="1">x</a><style>p {}</style><iframe src="/x"></iframe>'),
    ]  # fmt: skip
    save_notebook(out / "tiny" / "05_evaluation.ipynb", example(*hostile), nbformat.v4.new_markdown_cell(NASTY))
    (out / "scoreboard.csv").write_text(SCORES.replace("refining helps", f'"{NASTY}"'))
    params = load_params(TINY).model_dump(mode="json") | {"caption": NASTY}
    change(out, runs={"tiny": {"seed": 0, "params": params}})
    soup = read(out)
    assert words(soup).count("<script>alert(1)</script>") >= 6
    assert {tag.name for tag in soup.find_all()} & {
        "script",
        "iframe",
        "object",
        "embed",
        "svg",
        "form",
        "link",
    } == set()
    assert len(soup.find_all("style")) == 1
    assert all(image["src"].startswith("data:image/") for image in soup.find_all("img"))
    assert not [name for tag in soup.find_all() for name in tag.attrs if name.startswith("on")]
    assert not [link for link in soup.find_all("a") if "javascript" in link["href"]]


def test_the_page_needs_nothing_beside_it_and_tells_no_place(out):
    params = load_params(TINY).model_dump(mode="json")
    params["base_model"]["source"] = "/srv/models/mine"
    change(out, runs={"tiny": {"seed": 0, "params": params}})
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
    save_notebook(out / "tiny" / "05_evaluation.ipynb", example(printed("a")), example(printed("b")))
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


def test_the_same_folder_gives_the_same_bytes_wherever_it_lies(out, tmp_path):
    first = write_report(out).read_bytes()
    assert write_report(out).read_bytes() == first
    shutil.copytree(out, tmp_path / "elsewhere")
    assert write_report(tmp_path / "elsewhere").read_bytes() == first


def test_every_number_of_the_committed_tables_is_in_the_report():
    out = ROOT / "results" / "mini"
    written = "".join((out / "tables" / f"table{i}.md").read_text() for i in (1, 2, 3))
    number = r"(-?[\d.]+) (\[-?[\d.]+, -?[\d.]+\]) \(n=(\d+)\)"
    want = Counter(re.findall(number, written))
    section = read(out).find("section", attrs={"aria-labelledby": "tables"})
    found = [re.fullmatch(r"(\S+) (\[.*\]) n = ([\d,]+)", words(c)) for c in section.find_all(class_="number")]
    assert Counter((cell[1], cell[2], cell[3].replace(",", "")) for cell in found) == want
    assert len(want) > 50


@pytest.mark.parametrize("content", ["", "value", "task,model\n1,2", "a,b\n1,2,3,4\n", "\xff\xfe"])
@pytest.mark.parametrize("name", ["tables/table3.csv", "figures/figure6.csv", "scoreboard.csv"])
def test_a_table_that_is_none_is_named(out, name, content):
    (out / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ParamsError, match=rf"{name}: must be a CSV with the columns .*; lacks ") as error:
        page(out)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{}", "[]", "\xff"])
def test_a_notebook_that_is_none_is_named(out, content):
    (out / "tiny" / "05_evaluation.ipynb").write_bytes(content.encode("latin-1"))
    with pytest.raises(ParamsError, match=r"05_evaluation\.ipynb: is no notebook"):
        page(out)


def test_the_command(out):
    result = CliRunner().invoke(app, ["report", str(out)])
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"done: {out / 'report.html'}\n", "")
    assert (out / "report.html").read_text() == page(out)


@pytest.mark.parametrize("name", ["nowhere", "tables", "scoreboard.csv"])
def test_the_command_refuses_what_is_no_output_folder(out, name):
    result = CliRunner().invoke(app, ["report", str(out / name)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and "manifest" in result.stderr and result.stderr.count("\n") == 1
    assert not (out / name / "report.html").exists()
