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

FOLDER = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def finished(bar: str) -> str:
    """A progress bar as it stood at the end of its cell; a viewer without a kernel shows how it was stored, at 0 %."""
    return re.sub(r"\b0%\|.*\| 0/(\d+) .*", r"100%|██████████| \1/\1", bar)


def rebuild(path: Path) -> None:
    """Execute one chapter in its own folder. A cell that fails stops the run, and the file stays as it was."""
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=900, record_timing=False, coalesce_streams=True, resources=folder).execute()
    notebook.metadata = METADATA
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        for output in cell.get("outputs", ()):
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                output.data["text/plain"] = finished(output.data["text/plain"])
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def main(names: list[str]) -> None:
    for path in [Path(name) for name in names] or sorted(FOLDER.glob("*.ipynb")):
        start = time.perf_counter()
        rebuild(path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
