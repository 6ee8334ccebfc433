"""The form of the chapters: what every notebook must look like, whatever it is about.

That their code runs and gives the stored outputs is nbval's affair. Here they are read, not run: executed in order and
without errors, clean, every figure with its claim, links that lead somewhere, more prose than code, short cells.
"""

import ast
import copy
import importlib.util
import re
import statistics
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

TOP = Path(__file__).parent.parent
CHAPTERS = sorted((TOP / "notebooks").glob("*.ipynb"))
IGNORED = "nbval-ignore-output"
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
SOLUTION = re.compile(r"<details>.*?</details>", re.DOTALL)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def cells(notebook: NotebookNode, kind: str) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def lines(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


# --- one function a rule: it raises AssertionError where `notebook`, stored at `path`, breaks it ----------------------


def is_valid_and_clean(notebook: NotebookNode, path: Path) -> None:
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}, "widget state or other metadata is saved"
    assert notebook.metadata.kernelspec.name == "python3" and set(notebook.metadata.language_info) == {"name"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}, f"cell {cell.id} has metadata {sorted(cell.metadata)}"
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cell.id), f"cell id {cell.id} says nothing: write words"
        assert not cell.get("attachments")


def was_executed_in_order(notebook: NotebookNode, path: Path) -> None:
    counts = [cell.execution_count for cell in cells(notebook, "code")]
    assert counts == list(range(1, len(counts) + 1)), "not executed from top to bottom: run notebooks/rebuild.py"
    assert all(cell.source.strip() for cell in notebook.cells), "there is an empty cell"


def has_no_errors_and_no_warnings(notebook: NotebookNode, path: Path) -> None:
    for cell in cells(notebook, "code"):
        for output in cell.outputs:
            assert output.output_type != "error", f"cell {cell.id} raised {output.get('ename')}"
            assert output.get("name") != "stderr", f"cell {cell.id} wrote to stderr: {output.get('text')}"


def names_no_machine(notebook: NotebookNode, path: Path) -> None:
    for cell in notebook.cells:
        texts = [cell.source]
        for output in cell.get("outputs", ()):
            data = {"text/plain": output.get("text", "")} | dict(output.get("data", {}))
            texts += [str(value) for kind, value in data.items() if not kind.startswith("image/")]
        for text in texts:
            found = re.search(r"(?<![\w.:/<)\]}])/(?:[\w.-]+/)+[\w.-]+|[A-Z]:\\\w", text)
            assert not found, f"cell {cell.id} names a path of a machine: {found[0]}"


def opens_with_its_goal_and_run_time(notebook: NotebookNode, path: Path) -> None:
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith(f"# {path.name[:2]} · ")
    flat = " ".join(first.source.split())
    for part in (r"\*\*Goal:\*\* [^.]+\.", r"\*\*You need:\*\*", r"\*\*Run time:\*\* about .*? on two CPU cores"):
        assert re.search(part, flat), f"the header lacks {part}"
    assert re.search(r"\*\*(Before|Next):\*\*", flat), "the header names no neighbour"
    place = CHAPTERS.index(path)
    for neighbour in CHAPTERS[max(place - 1, 0) : place] + CHAPTERS[place + 1 : place + 2]:
        assert f"({neighbour.name})" in first.source, f"the header has no link to the neighbour {neighbour.name}"


def has_links_that_resolve(notebook: NotebookNode, path: Path) -> None:
    for cell in cells(notebook, "markdown"):
        for link in LINK.findall(cell.source):
            check_link(link, path)


def check_link(link: str, path: Path) -> None:
    if link.startswith("https://"):
        return
    name, _, anchor = link.partition("#")
    file = path.parent / name if name else path
    assert file.exists(), f"{path.name} links to {link}, which does not exist"
    if anchor:
        assert file.suffix == ".md", f"{link}: anchors are only kept by GitHub and JupyterLab alike in .md files"
        headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {heading.replace(" ", "-") for heading in headings}, f"{file.name} has no heading #{anchor}"


def gives_every_figure_its_claim(notebook: NotebookNode, path: Path) -> None:
    for cell in cells(notebook, "code"):
        for output, following in zip(cell.outputs, [*cell.outputs, {}][1:], strict=True):
            if not any(kind.startswith("image/") for kind in output.get("data", {})):
                continue
            claim = following.get("text", "").partition("\n")[0]
            assert re.fullmatch(r"Figure: \S.*\.", claim), f"no claim follows the figure of cell {cell.id}"
            alternative = output.metadata.get("image/png", {}).get("alt")
            assert claim == f"Figure: {alternative}", f"the figure of cell {cell.id} lacks its alternative text"


def compares_most_outputs(notebook: NotebookNode, path: Path) -> None:
    code = cells(notebook, "code")
    ignored = [cell for cell in code if IGNORED in cell.metadata.get("tags", ())]
    assert len(ignored) < len(code) / 5, f"{len(ignored)} of {len(code)} outputs are not compared"


def has_short_cells_and_more_prose(notebook: NotebookNode, path: Path) -> None:
    code = [cell.source for cell in cells(notebook, "code")]
    prose = [SOLUTION.sub("", cell.source) for cell in cells(notebook, "markdown")]
    assert statistics.median(map(lines, code)) <= 7
    assert sum(map(len, prose)) > sum(map(len, code)), "more code than prose"


def defines_no_classes(notebook: NotebookNode, path: Path) -> None:
    for cell in cells(notebook, "code"):
        nodes = ast.walk(ast.parse(cell.source))  # no magics either: they do not parse
        assert not any(isinstance(node, ast.ClassDef) for node in nodes), f"cell {cell.id} defines a class"


def ends_with_exercises_and_sources(notebook: NotebookNode, path: Path) -> None:
    solutions = [cell for cell in cells(notebook, "markdown") if "<details><summary>Solution</summary>" in cell.source]
    assert 3 <= len(solutions) <= 5, f"{len(solutions)} folded solutions"
    calls = [cell.source for cell in cells(notebook, "code") if "check_answer(" in cell.source]
    assert len(calls) == len(solutions), "every exercise is checked by one cell"
    assert f'check_solutions("{path.name}", globals())' in cells(notebook, "code")[-1].source
    last = notebook.cells[-1]
    assert last.cell_type == "markdown" and re.search(r"^## Sources$", last.source, re.MULTILINE)
    assert "section" in last.source and "https://arxiv.org/abs/" in last.source


RULES = [
    is_valid_and_clean,
    was_executed_in_order,
    has_no_errors_and_no_warnings,
    names_no_machine,
    opens_with_its_goal_and_run_time,
    has_links_that_resolve,
    gives_every_figure_its_claim,
    compares_most_outputs,
    has_short_cells_and_more_prose,
    defines_no_classes,
    ends_with_exercises_and_sources,
]


def test_there_are_chapters() -> None:
    assert CHAPTERS and len({path.name[:2] for path in CHAPTERS}) == len(CHAPTERS)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_chapter(rule, path: Path) -> None:
    rule(read(path), path)


def test_the_links_of_the_glossary_resolve() -> None:
    path = TOP / "notebooks" / "glossary.md"
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        check_link(link, path)
    headings = re.findall(r"^### (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == sorted(headings) and headings == [heading.lower() for heading in headings]


# --- the rules can tell ----------------------------------------------------------------------------------------------


def first_figure(notebook: NotebookNode) -> NotebookNode:
    return next(
        cell for cell in cells(notebook, "code") if any("data" in x and "image/png" in x.data for x in cell.outputs)
    )


def spoil_metadata(notebook: NotebookNode) -> None:
    notebook.metadata["widgets"] = {}


def spoil_order(notebook: NotebookNode) -> None:
    cells(notebook, "code")[1].execution_count = 99


def spoil_output(notebook: NotebookNode) -> None:
    cells(notebook, "code")[0].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])]


def spoil_path(notebook: NotebookNode) -> None:
    cells(notebook, "code")[0].source += "\nopen('/" + "some/where/file')"


def spoil_header(notebook: NotebookNode) -> None:
    notebook.cells[0].source = notebook.cells[0].source.replace("Run time", "Time")


def spoil_link(notebook: NotebookNode) -> None:
    notebook.cells[0].source += "\n[nowhere](nowhere.ipynb)"


def spoil_anchor(notebook: NotebookNode) -> None:
    notebook.cells[0].source += "\n[nothing](glossary.md#nothing)"


def spoil_claim(notebook: NotebookNode) -> None:
    first_figure(notebook).outputs = first_figure(notebook).outputs[:1]


def spoil_alternative(notebook: NotebookNode) -> None:
    first_figure(notebook).outputs[0].metadata = {}


def spoil_tags(notebook: NotebookNode) -> None:
    for cell in cells(notebook, "code")[::5]:
        cell.metadata["tags"] = [IGNORED]


def spoil_length(notebook: NotebookNode) -> None:
    for cell in cells(notebook, "code"):
        cell.source += "\npass" * 8


def spoil_class(notebook: NotebookNode) -> None:
    cells(notebook, "code")[0].source += "\nclass Hidden: ..."


def spoil_sources(notebook: NotebookNode) -> None:
    del notebook.cells[-1]


SPOILED = [
    (spoil_metadata, is_valid_and_clean),
    (spoil_order, was_executed_in_order),
    (spoil_output, has_no_errors_and_no_warnings),
    (spoil_path, names_no_machine),
    (spoil_header, opens_with_its_goal_and_run_time),
    (spoil_link, has_links_that_resolve),
    (spoil_anchor, has_links_that_resolve),
    (spoil_claim, gives_every_figure_its_claim),
    (spoil_alternative, gives_every_figure_its_claim),
    (spoil_tags, compares_most_outputs),
    (spoil_length, has_short_cells_and_more_prose),
    (spoil_class, defines_no_classes),
    (spoil_sources, ends_with_exercises_and_sources),
]


@pytest.mark.parametrize(("spoil", "rule"), SPOILED, ids=lambda x: x.__name__)
def test_a_spoiled_chapter_is_caught(spoil, rule) -> None:
    path = TOP / "notebooks" / "01_lossless.ipynb"
    notebook = copy.deepcopy(read(path))
    spoil(notebook)
    with pytest.raises(AssertionError):
        rule(notebook, path)


# --- rebuilding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("done", "text"), [(16.0, "100%|██████████| 16/16"), (4.0, "25%|██        | 4/16")])
def test_a_bar_is_stored_as_far_as_it_got(done, text):
    spec = importlib.util.spec_from_file_location("rebuild", TOP / "notebooks" / "rebuild.py")
    rebuild = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rebuild)
    view = {"model_id": "box"}
    data = {"application/vnd.jupyter.widget-view+json": view, "text/plain": "read: 0%|   | 0/16 [00:00<?, ?it/s]"}
    output = nbformat.from_dict({"output_type": "display_data", "data": data, "metadata": {}})
    bar = {"model_name": "FloatProgressModel", "state": {"value": done, "max": 16.0}}
    box = {"model_name": "HBoxModel", "state": {"children": ["IPY_MODEL_bar"]}}
    rebuild.settle(output, {"box": box, "bar": bar})
    assert output.data["text/plain"] == f"read: {text}"
