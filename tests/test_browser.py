"""Chapter 09 in JupyterLab in a real browser, used as a reader uses it: with the mouse and with the keyboard.

It needs Chromium or Chrome. Without one it is skipped, unless the environment variable FSPAD_BROWSER is "required".
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
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]  # a container's root user has no sandbox
RUN_ALL, STEP = 600_000, 120_000  # milliseconds: generous, as slow cores may be shared

if not FOUND and os.environ.get("FSPAD_BROWSER") == "required":
    pytest.fail("expected a browser, as FSPAD_BROWSER=required says, found neither Chromium nor Chrome. Install one.")
pytestmark = pytest.mark.skipif(not FOUND, reason="needs Chromium or Chrome. On Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a copy of the chapter in JupyterLab, on a free port, with nothing of the user's."""
    home = tmp_path_factory.mktemp("lab")
    (home / "book" / "notebooks").mkdir(parents=True)
    (home / "book" / "data").symlink_to(TOP / "data")
    shutil.copy(TOP / "notebooks" / "09_explorer.ipynb", home / "book" / "notebooks")
    file = home / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    file.parent.mkdir(parents=True)
    file.write_text('{"windowingMode": "none"}')  # cells outside the window stay in the page
    folders = {f"JUPYTER_{name.upper()}_DIR": str(home / name) for name in ("config", "data", "runtime")}
    folders |= {f"JUPYTERLAB_{name.upper()}_DIR": str(home / name) for name in ("settings", "workspaces")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0",
               f"--ServerApp.root_dir={home / 'book'}", "--LabApp.extension_manager=readonly",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None"]  # fmt: skip
    environment = os.environ | folders | {"IPYTHONDIR": str(home / "ipython")}
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(STEP // 100):  # the server writes a file with its port and token when it is ready
            for text in (file.read_text() for file in (home / "runtime").glob("jpserver-*.json")):
                if text.endswith("}"):
                    yield "{url}lab/tree/notebooks/09_explorer.ipynb?token={token}".format(**json.loads(text))
                    return
            assert server.poll() is None, (home / "log").read_text()
            time.sleep(0.1)
        pytest.fail((home / "log").read_text())
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def page(address):
    """The page with the chapter, run from top to bottom."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=FOUND, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(STEP)
        expect.set_options(timeout=STEP)
        page.goto(address)
        expect(page.get_by_text(re.compile(r"Python 3.*\| Idle"))).to_be_visible(timeout=RUN_ALL)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        waiting = page.locator(".jp-InputPrompt", has_text="[*]")
        expect(waiting).not_to_have_count(0)
        expect(waiting).to_have_count(0, timeout=RUN_ALL)
        yield page
        browser.close()


def panel(page: Page, code: str) -> Locator:
    return page.locator(".jp-CodeCell", has=page.locator(".cm-content", has_text=code)).locator(".jp-OutputArea-output")


def control(panel: Locator, name: str, kind: str = "[role=slider]") -> Locator:
    labelled = panel.page.locator("label", has_text=re.compile(f"^{re.escape(name)}$"))
    return panel.locator(".widget-inline-hbox", has=labelled).locator(kind)


def type_into(panel: Locator, name: str, value: str) -> None:
    """Write another number beside a slider."""
    number = control(panel, name, ".widget-readout")
    number.fill(value)
    number.press("Enter")


def test_controls_change_the_speed_and_never_the_text(page):
    explorer = panel(page, "explorer = Explorer(")
    text = explorer.locator(".fspad-text").inner_text()
    control(explorer, "depth").press("ArrowLeft")  # the chapter has tried four drafts and another tree
    expect(explorer.locator("tbody tr", has_text="the same text")).to_have_count(6)
    assert explorer.locator(".fspad-text").inner_text() == text != ""
    type_into(explorer, "total tokens", "120")
    expect(explorer.get_by_role("alert")).to_contain_text("Lower total_tokens")
    type_into(explorer, "total tokens", "16")
    control(explorer, "seed").press("ArrowRight")
    expect(explorer.locator(".fspad-text")).not_to_have_text(text)
    expect(explorer.get_by_role("alert")).to_have_count(0)
    type_into(explorer, "new tokens", "128")
    explorer.get_by_role("button", name="Cancel").click()  # as soon as it can be pressed
    expect(explorer.get_by_text("Stopped.")).to_be_visible()


def test_stepping_through_a_round(page):
    stepper = panel(page, "stepper = TreeStepper(")
    control(stepper, "round").press("Home")
    control(stepper, "stage", "select").select_option(index=0)
    for claim in ("Grow: 4", "Grow: 20", "Grow: 36", "Grow: 52", "Rerank", "Score", "Draw", "Verify", "Keep"):
        expect(stepper.get_by_text(f"Round 1. {claim}").last).to_be_visible()
        stepper.get_by_role("button", name="next").press("Space")
    expect(stepper.get_by_text("Round 2. Grow: 4").last).to_be_visible()
    control(stepper, "stage", "select").select_option("score")
    control(stepper, "node", "select").select_option(index=2)
    expect(stepper.locator("pre", has_text="expected acceptance")).to_be_visible()
    assert "path score" in stepper.locator(".fspad-part title").nth(1).text_content()
