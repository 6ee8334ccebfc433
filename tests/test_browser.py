"""Chapter 09 in JupyterLab in a real browser, used as a reader uses it: with the mouse and with the keyboard.

It needs Chromium or Chrome (on Debian: apt-get install chromium). Without one it is skipped, unless the environment
variable FSPAD_BROWSER is "required"; FSPAD_BROWSER may also hold the path of the browser. What is asserted is text on
the page. The server, its settings, the notebook that it opens and the browser's profile live in a temporary folder.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

TOP = Path(__file__).parent.parent
WISH = os.environ.get("FSPAD_BROWSER", "")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = WISH if WISH not in ("", "required") else next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--no-sandbox",  # which a container's root user does not have
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells outside the window stay in the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
RUN_ALL, STEP = 600_000, 120_000  # milliseconds: generous, as two slow cores may be shared

if not FOUND and WISH == "required":
    pytest.fail("expected a browser, as FSPAD_BROWSER=required says, found neither Chromium nor Chrome. Install one.")
pytestmark = pytest.mark.skipif(
    not FOUND, reason="needs Chromium or Chrome, found neither. On Debian: apt-get install chromium"
)


# --- a server and a page ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a free port of this machine, with nothing of the user's: the address of a copy of the chapter."""
    home = tmp_path_factory.mktemp("lab")
    (home / "book" / "notebooks").mkdir(parents=True)
    (home / "book" / "data").symlink_to(TOP / "data")
    for name in ("09_explorer.ipynb", "glossary.md"):
        shutil.copy(TOP / "notebooks" / name, home / "book" / "notebooks")
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
               "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
               "IPYTHONDIR": "ipython"}  # fmt: skip
    environment = os.environ | {name: str(home / folder) for name, folder in folders.items()}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0",
               f"--ServerApp.root_dir={home / 'book'}", "--LabApp.extension_manager=readonly",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url="]  # fmt: skip
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield address(server, home)
    finally:
        server.terminate()
        server.wait(60)


def address(server: subprocess.Popen, home: Path) -> str:
    """Of the chapter: the server writes a file with its port and token when it is ready."""
    for _ in range(STEP // 100):
        for file in (home / "runtime").glob("jpserver-*.json"):
            text = file.read_text()
            if not text.endswith("}"):  # it is still being written
                continue
            facts = json.loads(text)
            return f"{facts['url']}lab/tree/notebooks/09_explorer.ipynb?token={facts['token']}"
        assert server.poll() is None, f"JupyterLab has ended:\n{(home / 'log').read_text()}"
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab does not start:\n{(home / 'log').read_text()}")


@pytest.fixture(scope="module")
def chapter(lab, tmp_path_factory):
    """The page with the chapter, run from top to bottom."""
    with sync_playwright() as driver:
        profile = tmp_path_factory.mktemp("profile")
        size = {"width": 1400, "height": 1000}
        browser = driver.chromium.launch_persistent_context(profile, executable_path=FOUND, args=FLAGS, viewport=size)
        browser.set_default_timeout(STEP)
        expect.set_options(timeout=STEP)
        page = browser.pages[0]
        page.goto(lab)
        expect(page.locator(".jp-Notebook .jp-CodeCell").first).to_be_visible(timeout=RUN_ALL)
        run_all(page)
        yield page
        browser.close()


def run_all(page: Page) -> None:
    expect(page.get_by_text(re.compile(r"Python 3.*\| Idle"))).to_be_visible(timeout=RUN_ALL)  # the kernel is there
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    waiting = page.locator(".jp-InputPrompt", has_text="[*]")
    expect(waiting).not_to_have_count(0)
    expect(waiting).to_have_count(0, timeout=RUN_ALL)
    expect(page.get_by_text("folded solutions pass their checks: True")).to_be_visible()


# --- what a reader sees and does -------------------------------------------------------------------------------------


def panel(page: Page, code: str) -> Locator:
    """The widget under the cell that has this code."""
    return page.locator(".jp-CodeCell", has=page.locator(".cm-content", has_text=code)).locator(".jp-OutputArea-output")


def control(panel: Locator, name: str, kind: str) -> Locator:
    """The control of that kind with that label."""
    labelled = panel.page.locator("label", has_text=re.compile(f"^{re.escape(name)}$"))
    return panel.locator(".widget-inline-hbox", has=labelled).locator(kind)


def slider(panel: Locator, name: str) -> Locator:
    return control(panel, name, "[role=slider]")


def type_into(panel: Locator, name: str, value: str) -> None:
    """Click on the number beside a slider, and write another."""
    number = control(panel, name, ".widget-readout")
    number.click()
    number.press("Control+a")
    number.press_sequentially(value)
    number.press("Enter")


def drag(handle: Locator, pixels: int) -> None:
    handle.scroll_into_view_if_needed()
    place, mouse = handle.bounding_box(), handle.page.mouse
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + pixels, y, steps=4)
    mouse.up()


def row(panel: Locator, name: str) -> Locator:
    """A row of the table of numbers of the left side."""
    return panel.locator("tr", has_text=name).first


def written(panel: Locator, side: int = 0) -> str:
    return panel.locator(".fspad-text").nth(side).inner_text()


def tried(panel: Locator, count: int) -> None:
    """Wait until the text is that of `count` settings."""
    expect(row(panel, "plain decoding's, token by token")).to_contain_text(f"checked). {count} setting")


@pytest.fixture
def explorer(chapter):
    return panel(chapter, "explorer = Explorer(")


def test_depth_changes_the_speed_and_never_the_text(explorer):
    """By keyboard alone: the slider has the focus, the arrow key moves it."""
    tried(explorer, 1)
    text, time_line = written(explorer), row(explorer, "time").inner_text()
    slider(explorer, "depth").press("ArrowRight")
    tried(explorer, 2)
    assert written(explorer) == text != ""
    assert row(explorer, "time").inner_text() != time_line


def test_another_seed_writes_another_text(explorer):
    text = written(explorer)
    drag(slider(explorer, "seed"), 40)
    tried(explorer, 1)
    assert written(explorer) != text


def test_cancel_stops_a_decoding_and_the_next_one_works(explorer):
    text, cancel = written(explorer), explorer.get_by_role("button", name="Cancel")
    control(explorer, "beside it", "select").select_option("eagle")
    type_into(explorer, "new tokens", "128")
    cancel.click()  # as soon as it can be pressed
    expect(explorer.get_by_text("Stopped.")).to_be_visible()
    expect(cancel).to_be_disabled()
    assert written(explorer) == text
    type_into(explorer, "new tokens", "24")
    tried(explorer, 2)
    expect(explorer.get_by_text("Stopped.")).to_have_count(0)


def test_two_drafts_side_by_side_write_one_text(explorer):
    control(explorer, "beside it", "select").select_option("pad")
    expect(explorer.get_by_text("Draft: pad")).to_be_visible()
    assert written(explorer, 0) == written(explorer, 1) != ""


def test_an_error_is_shown_and_what_was_drawn_stays(explorer):
    text, alert = written(explorer), explorer.get_by_role("alert")
    type_into(explorer, "total tokens", "120")
    expect(alert).to_contain_text("Lower total_tokens")
    assert written(explorer) == text
    type_into(explorer, "total tokens", "16")
    expect(alert).to_have_count(0)


def test_stepping_through_a_round(chapter):
    """By keyboard alone, and then the pointer on a node."""
    stepper = panel(chapter, "stepper = TreeStepper(")
    options = control(stepper, "stage", "select").locator("option").all_inner_texts()
    stages = [one.replace("\xa0", " ") for one in options]  # ipywidgets puts hard blanks into options
    slider(stepper, "round").press("Home")
    control(stepper, "stage", "select").select_option(index=0)
    for stage in stages:
        expect(stepper.get_by_text(re.compile(rf"Round 1 of \d+: {stage}"))).to_be_visible()
        stepper.get_by_role("button", name="next").press("Space")
    expect(stepper.get_by_text(re.compile(rf"Round 2 of \d+: {stages[0]}"))).to_be_visible()
    slider(stepper, "round").press("ArrowRight")
    expect(stepper.get_by_text(re.compile(rf"Round 3 of \d+: {stages[0]}"))).to_be_visible()
    control(stepper, "stage", "select").select_option("verify")
    control(stepper, "node", "select").select_option(index=2)
    expect(row(stepper, "expected acceptance")).to_be_visible()
    node = stepper.locator(".fspad-part").nth(1)
    node.hover()
    expect(node.locator(".fspad-edge")).to_have_css("stroke", "rgb(213, 94, 0)")
    assert "path score" in node.locator("title").text_content()


def test_panels_of_numbers_follow_their_controls(chapter):
    temperature = panel(chapter, "panel = TemperaturePanel(")
    slider(temperature, "temperature").press("ArrowLeft")
    expect(temperature.get_by_text("at T=0.95")).to_be_visible()
    costs = panel(chapter, "costs = CostPanel(")
    costs.get_by_role("button", name="costs as much as 60 passes").click()
    expect(control(costs, "growth to N=60", ".widget-readout")).to_have_text("60.00")
    broken = panel(chapter, "broken = BrokenPanel(")
    control(broken, "rule", "select").select_option("rejected guess stays")
    expect(broken.get_by_text("rejected guess stays: p-value")).to_be_visible()
    for one in (temperature, costs, broken):
        expect(one.get_by_role("alert")).to_have_count(0)
