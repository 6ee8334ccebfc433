"""Run chapters from top to bottom and write them back with their outputs: python notebooks/rebuild.py [chapter ...].

Without arguments all of them. What a run leaves behind that is no content (times, versions, widget state) is removed,
so that two runs differ only where the outputs do.
"""

import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def settle(output: NotebookNode, widgets: dict) -> None:
    """Store a progress bar as it stood at the end of its cell: a viewer without a kernel shows this text.

    tqdm writes it once, at 0 %; where the bar got to is in the state of its widgets.
    """
    view = output.get("data", {}).get("application/vnd.jupyter.widget-view+json")
    parts = [widgets[name.removeprefix("IPY_MODEL_")] for name in
             (widgets[view["model_id"]]["state"].get("children", ()) if view else ())]  # fmt: skip
    for bar in (part["state"] for part in parts if part["model_name"] == "FloatProgressModel"):
        done, total = bar.get("value", 0.0), bar.get("max", 100.0)
        text = f"{done / total:.0%}|{'█' * round(10 * done / total):10}| {done:g}/{total:g}"
        output.data["text/plain"] = re.sub(r"\b0%\|.*", text, output.data["text/plain"])


def rebuild(path: Path) -> None:
    """Execute one chapter in its own folder. A cell that fails stops the run, and the file stays as it was."""
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=900, record_timing=False, coalesce_streams=True, resources=folder).execute()
    states = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    notebook.metadata = METADATA
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        for output in cell.get("outputs", ()):
            settle(output, states.get("state", {}))
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def main(names: list[str]) -> None:
    for path in [Path(name) for name in names] or sorted(FOLDER.glob("*.ipynb")):
        start = time.perf_counter()
        rebuild(path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
