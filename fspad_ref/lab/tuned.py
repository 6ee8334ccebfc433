"""What tuning found: candidates, the choice, its table and its file, which is reused on the same machine."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fspad_ref.checkpoint import load_json, save_json
from fspad_ref.errors import CheckpointError
from fspad_ref.lab.calibration import Calibration
from fspad_ref.lab.costs import Costs
from fspad_ref.lab.provenance import provenance
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig


@dataclass(frozen=True)
class Candidate:
    """A tree size, what was predicted of it, and, for finalists, what came of it.

    tau, expected_tau, exact: see calibration.Forecast. predicted, ideal: speedups by the cost model, with and without
    overhead; prefill included. measured, measured_tau: in the real loop, on other prompts.
    """

    tree: TreeConfig
    tau: float
    expected_tau: float
    exact: float
    predicted: float
    ideal: float
    measured: float | None = None
    measured_tau: float | None = None

    @property
    def error(self) -> float | None:
        """Predicted over measured, minus 1."""
        return None if self.measured is None else self.predicted / self.measured - 1


@dataclass(frozen=True)
class Tuned:
    """The chosen tree, all candidates (best prediction first), and what the predictions rest on."""

    tree: TreeConfig
    candidates: list[Candidate]
    costs: Costs
    calibration: Calibration
    tokens: float

    @property
    def finalists(self) -> list[Candidate]:
        """Those that were measured, fastest first."""
        measured = [one for one in self.candidates if one.measured is not None]
        return sorted(measured, key=lambda one: -one.measured)


def save_tuned(path: str | Path, tuned: Tuned, target: Target, config: Mapping[str, Any]) -> None:
    """Write the choice, all candidates with predicted and measured, costs, calibration, provenance, and `config`."""
    calibration = {
        "acceptance": [[None if math.isnan(x) else x for x in row] for row in tuned.calibration.acceptance.tolist()],
        "steps": [
            {"depth": depth, "rank": rank, "score": score.tolist(), "probability": chance.tolist()}
            for (depth, rank), (score, chance) in tuned.calibration.steps.items()
        ],
    }
    save_json(
        path,
        {
            "tree": asdict(tuned.tree),
            "made_for": _machine(target),
            "provenance": provenance(target),
            "config": dict(config),
            "tokens": tuned.tokens,
            "candidates": [{**asdict(one), "error": one.error} for one in tuned.candidates],
            "costs": asdict(tuned.costs),
            "calibration": calibration,
        },
    )


def load_tuned(path: str | Path, target: Target) -> TreeConfig:
    """The tree that was chosen for this target, on this device and in this precision.

    Raises CheckpointError for a file of another kind, or made for another target or machine.
    """
    kept = load_json(path)
    try:
        tree, made_for = TreeConfig(**kept["tree"]), kept["made_for"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"expected a result of tuning in {path}, found something else ({error}). Tune again."
        ) from error
    here = _machine(target)
    if differing := [f"{name} {made_for.get(name)} (here: {here[name]})" for name in here
                     if made_for.get(name) != here[name]]:  # fmt: skip
        raise CheckpointError(
            f"expected a tree tuned for this target on this machine in {path}, found one for {'; '.join(differing)}. "
            "Tune again here."
        )
    return tree


def _machine(target: Target) -> dict[str, Any]:
    """What must be the same for a tuned tree to be the right one."""
    about = provenance(target)
    return {**target.identity(), **{name: about[name] for name in ("hardware", "threads", "dtype")},
            "device": target.device.type}  # fmt: skip


def table(tuned: Tuned, lines: int = 10) -> str:
    """Plain text: the best predictions, and of the finalists what was measured; then the acceptance by depth, rank."""
    head = f"{'top_k':>5}{'depth':>6}{'nodes':>6}{'tau':>7}{'ideal':>7}{'predicted':>10}{'measured':>10}{'error':>8}"
    rows = [head]
    for place, one in enumerate(tuned.candidates):
        if place >= lines and one.measured is None:
            continue
        tree = one.tree
        row = f"{tree.top_k:5}{tree.depth:6}{tree.total_tokens:6}{one.tau:7.2f}{one.ideal:7.2f}{one.predicted:10.2f}"
        rows.append(row if one.measured is None else row + f"{one.measured:10.2f}{one.error:+8.1%}")
    rows.append("\nacceptance by depth (rows) and child rank (columns), given that the parent was accepted")
    for depth, row in enumerate(tuned.calibration.acceptance, start=1):
        rows.append(f"{depth:5} " + "".join(f"{x:7.2f}" for x in row))
    tree = tuned.tree
    rows.append(f"\nfastest: top_k {tree.top_k}, depth {tree.depth}, total_tokens {tree.total_tokens}")
    return "\n".join(rows)
