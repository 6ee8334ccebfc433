"""The form of the notebooks. nbval runs them and compares their outputs; here they are only read."""

import re
import runpy
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

TOP = Path(__file__).parent.parent
NOTEBOOKS = sorted((TOP / "notebooks").glob("*.ipynb"))
PAGES = [TOP / "README.md", TOP / "data/README.md", TOP / "notebooks/glossary.md"]
IGNORED = "nbval-ignore-output"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in code(notebook) for output in cell.outputs if "image/png" in output.get("data", {})]


# ---- the rules: each raises AssertionError where `notebook`, stored at `path`, breaks it ----


def is_valid_without_saved_state(notebook: NotebookNode, path: Path) -> None:
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}, "widget state or other metadata is saved"
    assert all(set(cell.metadata) <= {"tags"} and not cell.get("attachments") for cell in notebook.cells)


def was_executed_in_order(notebook: NotebookNode, path: Path) -> None:
    for number, cell in enumerate(code(notebook), start=1):
        assert cell.execution_count == number, "not executed from top to bottom: run notebooks/rebuild.py"


def has_no_errors_and_no_warnings(notebook: NotebookNode, path: Path) -> None:
    for cell in code(notebook):
        for output in cell.outputs:
            assert output.output_type != "error", f"cell {cell.id} raised {output.get('ename')}"
            assert output.get("name") != "stderr", f"cell {cell.id} wrote to stderr: {output.get('text')}"


def names_no_path_of_a_machine(notebook: NotebookNode, path: Path) -> None:
    for cell in notebook.cells:
        text = "\n".join([cell.source, *(output.get("text", "") for output in cell.get("outputs", ()))])
        found = re.search(r"(?<![\w.:/<)\]}])/(?:[\w.-]+/)+[\w.-]+|[A-Z]:\\\w", text)
        assert not found, f"cell {cell.id} names {found[0]}"


def has_links_that_resolve(notebook: NotebookNode, path: Path) -> None:
    check_links("\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown"), path)


def check_links(text: str, path: Path) -> None:
    for link in LINK.findall(text):
        name, _, anchor = link.partition("#")
        file = path.parent / name if name else path
        assert link.startswith("https://") or file.exists(), f"{path.name} links to {link}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, f"no heading for {link}"


def describes_its_pictures(notebook: NotebookNode, path: Path) -> None:
    for output in pictures(notebook):
        alternative = output.metadata.get("image/png", {}).get("alt", "")
        assert len(alternative) > 20, f"a picture lacks its alternative text, found {alternative!r}"


def compares_its_outputs(notebook: NotebookNode, path: Path) -> None:
    ignored = [cell for cell in code(notebook) if IGNORED in cell.metadata.get("tags", ())]
    assert len(ignored) < len(code(notebook)) / 5, f"{len(ignored)} of {len(code(notebook))} outputs are not compared"


ERROR = nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])
RULES = {  # rule -> how to break it
    is_valid_without_saved_state: lambda notebook: notebook.metadata.update(widgets={}),
    was_executed_in_order: lambda notebook: code(notebook)[0].update(execution_count=99),
    has_no_errors_and_no_warnings: lambda notebook: code(notebook)[0].outputs.append(ERROR),
    names_no_path_of_a_machine: lambda notebook: notebook.cells[0].update(source="open('/" + "some/where/file')"),
    has_links_that_resolve: lambda notebook: notebook.cells[0].update(source="[nothing](glossary.md#nothing)"),
    describes_its_pictures: lambda notebook: pictures(notebook)[0].metadata.clear(),
    compares_its_outputs: lambda notebook: [cell.metadata.update(tags=[IGNORED]) for cell in code(notebook)],
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_keeps_the_rules(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for rule in RULES:
        rule(notebook, path)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_broken_rule_is_caught(rule) -> None:
    path = TOP / "notebooks" / "01_lossless.ipynb"
    notebook = nbformat.read(path, as_version=4)
    RULES[rule](notebook)
    with pytest.raises(AssertionError):
        rule(notebook, path)


def test_links_of_pages_resolve() -> None:
    for page in PAGES:
        check_links(page.read_text(encoding="utf-8"), page)


def test_a_progress_bar_is_stored_as_far_as_it_got() -> None:
    settle = runpy.run_path(str(TOP / "notebooks" / "rebuild.py"))["settle"]
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "box"}, "text/plain": "read: 0%| | 0/16 [?]"}
    output = nbformat.from_dict({"output_type": "display_data", "data": data})
    bar = {"model_name": "FloatProgressModel", "state": {"value": 4.0, "max": 16.0}}
    box = {"model_name": "HBoxModel", "state": {"children": ["IPY_MODEL_bar"]}}
    settle(output, {"box": box, "bar": bar})
    assert output.data["text/plain"] == "read: 25%|██        | 4/16"
