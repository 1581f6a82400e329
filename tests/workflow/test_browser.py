"""In a real browser: the report on a wide window and a phone's, and notebooks as ``make lab`` shows them.

Screenshots go to the folder that GLORE_SCREENSHOTS names, or else to the test's own.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
import yaml
from playwright.sync_api import Browser, Page, expect, sync_playwright

from glore_lib.artifacts.manifest import REPORT
from glore_lib.params import load_params
from glore_lib.workflow.pipeline import ROOT

# Few questions and short trainings: every cell for real, in a minute.
TRAINING = {"epochs": 1, "max_steps": 4, "learning_rate": 1e-3}
SMALL = {
    "task.train_questions": 12, "task.validation_questions": 4, "task.test_questions": 12,
    "student.sft_questions": 12, "student.sft": TRAINING, "student.training": TRAINING,
    "reward_models.rollouts_per_step": 2, "reward_models.training": TRAINING, "reward_models.figure4": False,
    "refiner.training": TRAINING, "evaluation.rerank_samples": 2, "sampling.max_new_tokens": 60,
}  # fmt: skip

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
PATIENCE = 600  # seconds for what takes some on a quiet machine
WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 375, "height": 812}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of this module alone: while Playwright is at work, no other test could run an event loop."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=1000 * PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def shoot(tmp_path: Path) -> Callable[[Page, str], None]:
    folder = Path(os.environ.get("GLORE_SCREENSHOTS") or tmp_path)

    def shoot(page: Page, name: str, **options: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"{name}.png", timeout=1000 * PATIENCE, **options)

    return shoot


# --- the report ---------------------------------------------------------------------------------------------------


@dataclass
class Opened:
    """A page, and all that it asked for and complained of."""

    page: Page
    requests: list[str]
    complaints: list[str]


@pytest.fixture(scope="module")
def report_text() -> str:
    """Return the committed report of all runs; test_committed_results.py checks that it is what the code makes."""
    return (ROOT / "results" / "all" / REPORT).read_text(encoding="utf-8")


@pytest.fixture(params=[(WIDE, "light"), (PHONE, "light"), (PHONE, "dark")], ids=["wide", "phone", "phone-dark"])
def report(
    browser: Browser, request: pytest.FixtureRequest, report_text: str, tmp_path: Path
) -> Iterator[Opened]:  # fmt: skip
    """Open the report as a file without any other beside it."""
    window, scheme = request.param
    path = tmp_path / "report.html"
    path.write_text(report_text, encoding="utf-8")
    context = browser.new_context(viewport=window, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    opened = Opened(page, [], [])
    page.on("request", lambda asked: opened.requests.append(asked.url))
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.goto(path.as_uri())
    yield opened
    context.close()


def overflow(page: Page) -> int:
    """Pixels by which a page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def unfold(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")


def test_the_report_shows_all_figures_needs_nothing_else_and_fits_the_window(report, shoot, request):
    page = report.page
    sizes = page.evaluate("Array.from(document.images, image => image.complete * image.naturalWidth)")
    assert len(sizes) >= len(list((ROOT / "results" / "all" / "figures").glob("*.svg"))) > 0
    assert all(size > 100 for size in sizes)
    assert overflow(page) == 0
    name = f"report-{request.node.callspec.id}"
    shoot(page, name)
    figure5, figure6 = (page.locator(f'img[alt^="Bar charts, one per run: accuracy {of}"]') for of in ("after", "of"))
    figure6.scroll_into_view_if_needed()
    shoot(page, f"{name}-folded", full_page=True)
    expect(figure5).to_be_hidden()
    unfold(page)
    figure5.scroll_into_view_if_needed()
    shoot(page, f"{name}-whole", full_page=True)
    assert overflow(page) == 0
    assert [url for url in report.requests if not url.startswith("data:")] == [page.url]
    assert report.complaints == []


def test_the_report_is_read_by_keyboard_and_in_the_dark(report):
    page = report.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the contents"
    page.keyboard.press("Enter")
    page.wait_for_url("**#main")
    unfold(page)
    boxes = page.locator(".scroll")
    cut = [i for i in range(boxes.count()) if boxes.nth(i).evaluate("box => box.scrollWidth > box.clientWidth")]
    if page.viewport_size == PHONE:
        assert cut
    for i in cut[:3]:
        box = boxes.nth(i)
        box.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => document.activeElement.scrollLeft > 0")
        expect(box).to_be_focused()
    ink, ground = page.evaluate(
        "['color', 'backgroundColor'].map(name => Number(getComputedStyle(document.body)[name].match(/\\d+/)[0]))"
    )
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (ground < 60 and ink > 200) if dark else (ground > 200 and ink < 60)


# --- notebooks in JupyterLab --------------------------------------------------------------------------------------


@dataclass
class Lab:
    """``make lab`` in a clone of its own, with few questions and short trainings."""

    clone: Path
    address: str
    token: str

    def open(self, browser: Browser, notebook: str) -> Page:
        page = browser.new_context(viewport=WIDE).new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(f"{self.address}/lab/tree/{notebook}?reset&token={self.token}")  # without tabs of other tests
        page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
        deadline = time.monotonic() + PATIENCE
        while not self._is_ready(page, notebook):  # what is run before that is not run at all
            assert time.monotonic() < deadline
            page.wait_for_timeout(200)
        return page

    def _is_ready(self, page: Page, notebook: str) -> bool:
        """Whether the page is connected to the notebook's kernel, and it is idle."""
        sessions = page.request.get(f"{self.address}/api/sessions?token={self.token}").json()
        kernels = [session["kernel"] for session in sessions if session["path"] == notebook]
        return any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels)

    def cells(self, page: Page) -> list[nbformat.NotebookNode]:
        """Return the code cells as the page holds them, with their outputs."""
        notebook = nbformat.from_dict(page.evaluate(f"{WIDGET}.content.model.toJSON()"))
        return [cell for cell in notebook.cells if cell.cell_type == "code"]

    def save(self, page: Page) -> None:
        page.keyboard.press("Control+s")
        page.wait_for_function(f"() => !{WIDGET}.content.model.dirty")

    def run_all(self, page: Page) -> list[nbformat.NotebookNode]:
        """*Run > Run All Cells*; the code cells once they are run, or one has failed."""
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        deadline = time.monotonic() + PATIENCE
        while True:
            cells = self.cells(page)
            if all(cell.execution_count for cell in cells) or failures(cells):
                return cells
            assert time.monotonic() < deadline, [cell.execution_count for cell in cells]
            page.wait_for_timeout(500)

    def git(self, *arguments: str) -> str:
        return git(self.clone, *arguments)


WIDGET = "window.jupyterapp.shell.currentWidget"


def git(clone: Path, *arguments: str) -> str:
    names = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", *names, *arguments], cwd=clone, capture_output=True, text=True, check=True).stdout


def failures(cells: list[nbformat.NotebookNode]) -> list[str]:
    outputs = [output for cell in cells for output in cell.outputs]
    return [f"{output.ename}: {output.evalue}" for output in outputs if output.output_type == "error"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder, token = tmp_path_factory.mktemp("lab"), secrets.token_hex()
    clone = folder / "clone"
    for name in ("glore_lib", "notebooks"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    for name in ("Makefile", ".gitignore"):
        shutil.copy(ROOT / name, clone)
    (clone / "params").mkdir()
    params = load_params(ROOT / "params" / "mini-hard.yaml", SMALL)
    (clone / "params" / "mini-hard.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    (clone / ".venv").symlink_to(sys.prefix)
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "All"]):
        git(clone, *command)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    kept |= {f"JUPYTERLAB_{name}_DIR": str(folder / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
    kept |= {"JUPYTER_TOKEN": token, "JUPYTER_PORT": str(port), "PYTHONPATH": str(clone)}
    kept |= {"OMP_NUM_THREADS": "1"}  # threads that wait for each other take longer
    settings = {
        "config/jupyter_server_config.json": {  # the user's own, which `make lab` reads too
            "ServerApp": {"open_browser": False, "allow_root": True, "port_retries": 0},
            "LabApp": {"expose_app_in_browser": True},
        },
        "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false"},
    }
    for name, content in settings.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(
            ["make", "--old-file=.venv/.installed", "lab"], cwd=clone, env=os.environ | kept,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        lab = Lab(clone, f"http://127.0.0.1:{port}", token)
        deadline = time.monotonic() + PATIENCE
        while not answers(f"{lab.address}/api"):
            assert server.poll() is None and time.monotonic() < deadline, (folder / "log.txt").read_text()
            time.sleep(0.2)
        yield lab
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # with its kernels
        server.wait(PATIENCE)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.long
def test_a_notebook_runs_from_its_first_cell_to_its_last_and_git_sees_only_edits(lab, browser, shoot):
    page = lab.open(browser, "notebooks/03_sorm.ipynb")
    cells = lab.run_all(page)
    assert failures(cells) == []
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    figure = page.locator(".jp-OutputArea-output img")
    page.locator(".jp-Notebook").hover()
    for _ in range(100):  # cells out of sight are not in the page
        if figure.count():
            break
        page.mouse.wheel(0, -400)
        page.wait_for_timeout(200)
    figure.first.scroll_into_view_if_needed()
    assert figure.first.evaluate("image => image.naturalWidth") > 100
    shoot(page, "lab-03")
    lab.save(page)
    assert lab.git("status", "--porcelain") == ""
    assert lab.cells(page) == cells  # still on display

    page.evaluate(f"{WIDGET}.content.scrollToItem(1)")
    page.locator(".jp-CodeCell .cm-content").get_by_text("params_file: str").click()
    page.keyboard.press("Control+End")
    page.keyboard.insert_text("\nmine = 1")
    lab.save(page)
    changed = [line for line in lab.git("diff", "-U0").splitlines() if line[0] in "+-" and line[1] in " "]
    assert lab.git("status", "--porcelain") == " M notebooks/03_sorm.ipynb\n"
    assert changed[-1] == '+    "mine = 1"' and len(changed) == 3
    lab.git("checkout", ".")
    page.context.close()


@pytest.mark.slow
@pytest.mark.long
def test_lab_opens_the_clone_at_its_notebooks(lab, browser, shoot):
    page = browser.new_context(viewport=WIDE).new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(f"{lab.address}/?token={lab.token}")
    expect(page.locator(".jp-DirListing-item").get_by_text("03_sorm.ipynb")).to_be_visible(timeout=1000 * PATIENCE)
    page.locator(".jp-BreadCrumbs-home").click()
    page.locator(".jp-DirListing-item").get_by_text("params").dblclick()
    page.locator(".jp-DirListing-item").get_by_text("mini-hard.yaml").dblclick()
    expect(page.locator(".jp-FileEditor").get_by_text("train_questions: 12")).to_be_visible(timeout=1000 * PATIENCE)
    assert page.locator(".jp-DirListing-item").get_by_text("mini-hard.yaml").count() == 1
    assert page.locator(".jp-BreadCrumbs-item", has_text="params").count() == 1  # below the clone's root
    shoot(page, "lab-params")
    page.context.close()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_the_explorer_answers_to_its_widgets(lab, browser, shoot, theme):
    page = lab.open(browser, "notebooks/explorer.ipynb")
    page.evaluate(f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
    page.wait_for_function(f"() => document.body.dataset.jpThemeLight == '{str(theme == 'Light').lower()}'")
    assert failures(lab.run_all(page)) == []
    draft, slider = page.get_by_label("Draft", exact=True), page.get_by_role("slider")
    question, text = page.get_by_label("Question", exact=True), page.get_by_label("Your draft", exact=True)
    score = page.get_by_role("button", name="Score and refine")
    shown, picked = page.get_by_text("First error at T ="), page.get_by_text("picked by the ORM")
    expect(shown).to_have_count(1)
    expect(picked).to_have_count(1)
    draft.scroll_into_view_if_needed()
    page.get_by_role("button", name="Copy the draft above").click()
    expect(question).not_to_have_value("")
    text.fill("tom has 2 kiwis\n#### 2")
    mine = question.input_value()
    score.click()
    expect(shown).to_have_count(2)
    expect(picked).to_have_count(2)
    expect(page.get_by_role("cell", name="kiwis", exact=True)).to_be_visible()
    draft.select_option(index=1)

    first = shown.first.inner_text()
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    expect(shown.first).not_to_have_text(first)
    at = shown.first.inner_text().partition("T = ")[2].partition(":")[0]
    expect(page.get_by_text(f"First error at T = {at}:")).to_have_count(2)
    expect(question).to_have_value(mine)
    expect(text).to_have_value("tom has 2 kiwis\n#### 2")
    shoot(page, f"explorer-{theme.lower()}")

    search = page.get_by_label("Search", exact=True)
    search.fill("zebra")
    search.press("Enter")
    expect(page.get_by_text("There is no draft of this kind")).to_be_visible()
    search.fill("")
    search.press("Enter")
    expect(shown).to_have_count(2)
    text.fill("")
    score.click()
    expect(page.get_by_text("Your draft is empty")).to_be_visible()
    expect(shown).to_have_count(1)
    page.context.close()
