"""What the times of a true shape mean: the memory's limit, the goals, predicted against published speedups, the memory.

Everything is computed from what `shape_bench.measure` has measured, as plain data.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fspad_ref.lab.shapes import GIB, PUBLISHED_SOURCE, SHAPES, published

# of a GPU with the name, in bfloat16, one text at a time, with CUDA graphs
GOALS_ON, PLAIN_STEP, VERIFICATION, VERIFIED, DRAFT, REST = "H200", 1.25, 1.15, 60, 1.3, 0.05
NOMINAL_TAU = 4.0  # tokens of a round whose noise is reckoned in, where no tau is given

Results = Mapping[str, Any]


def limits(results: Results) -> dict[str, Any]:
    """Least seconds by memory: of a target forward, and of every draft; with the bytes that they must read."""
    config, tree = results["config"], results["tree"]
    shape, width = SHAPES[config["shape"]], getattr(torch, config["dtype"]).itemsize
    step = shape.step_bytes(config["prefix"], width)
    drafts = {kind: shape.draft_bytes(kind, tree["depth"] + 1, config["prefix"], width) for kind in results["drafts"]}
    return {
        "forward": {"bytes": step, "seconds": step / results["bandwidth"]},
        "drafts": {kind: {"bytes": size, "seconds": size / results["bandwidth"]} for kind, size in drafts.items()},
    }


def round_seconds(results: Results, kind: str, temperature: str, tau: float) -> float:
    """Of a round that adds tau tokens, their noise included, which the host makes a block at a time."""
    return results["drafts"][kind]["round"][temperature] + tau * noise(results, temperature)


def plain_seconds(results: Results, temperature: str) -> float:
    """Of a step of plain decoding, its token's noise included."""
    return results["plain"][temperature] + noise(results, temperature)


def noise(results: Results, temperature: str) -> float:
    """Seconds for one token's noise: none where the most probable token is taken."""
    return results["noise"] if float(temperature) else 0.0


def rest(results: Results, kind: str, temperature: str, tau: float = NOMINAL_TAU) -> float:
    """Seconds of a round that are neither growing nor the target's forward."""
    forward = results["forward"][str(results["tree"]["total_tokens"])]
    return round_seconds(results, kind, temperature, tau) - results["drafts"][kind]["draft"] - forward


def predictions(results: Results) -> list[dict[str, Any]]:
    """By draft and temperature: the tau from which it pays, and the speedup at a published tau beside the published."""
    rows = []
    for kind, of in results["drafts"].items():
        known = {f"{t:g}": row for t, row in published(results["config"]["shape"], kind).items()}
        for temperature, seconds in of["round"].items():
            speedup, tau = known.get(temperature, (None, None))
            plain = plain_seconds(results, temperature)
            predicted = tau and tau * plain / round_seconds(results, kind, temperature, tau)
            rows.append({
                "draft": kind, "temperature": float(temperature), "tau": tau,
                "break_even_tau": seconds / results["plain"][temperature],  # tokens make noise in both loops alike
                "predicted": predicted, "published": speedup,
                "predicted_over_published": predicted and predicted / speedup,
                "source": PUBLISHED_SOURCE if tau else None,
            })  # fmt: skip
    return rows


def goals(results: Results) -> list[dict[str, Any]]:
    """What was aimed at on an H200 and what was found; elsewhere, or without graphs, a goal is "not measured"."""
    found: list[tuple[str, float | None, float]] = []
    least, forward = limits(results), results["forward"]
    steps = min(results["plain"].values())  # greedy, if that was measured
    found.append(("plain step over the memory's limit", steps / least["forward"]["seconds"], PLAIN_STEP))
    verified = forward.get(str(VERIFIED))
    found.append((f"forward of {VERIFIED} nodes over that of one", verified and verified / forward["1"], VERIFICATION))
    for kind, of in results["drafts"].items():
        over = of["draft"] / least["drafts"][kind]["seconds"]
        found.append((f"{kind}: draft of {results['tree']['depth'] + 1} levels over its limit", over, DRAFT))
        for temperature in of["round"]:
            share = rest(results, kind, temperature) / round_seconds(results, kind, temperature, NOMINAL_TAU)
            found.append((f"{kind}, T={temperature}: share of the rest in a round", share, REST))
    there = (
        GOALS_ON in str(results["provenance"]["hardware"])
        and results["graphs"]
        and results["config"]["dtype"] == "bfloat16"
        and results["config"]["shape"] != "tiny"
    )
    return [
        {"goal": name, "found": value, "at_most": bound,
         "verdict": ("met" if value <= bound else "not met") if there and value is not None else "not measured"}
        for name, value, bound in found
    ]  # fmt: skip


def results_table(results: Results) -> str:
    """Plain text: bandwidth, every time beside its limit, rounds, predictions, goals, memory."""
    config, about, least = results["config"], results["provenance"], limits(results)
    tree = results["tree"]
    lines = [
        f"{config['shape']}, random weights, {config['dtype']}, {about['hardware']}, prefix {config['prefix']}, "
        f"{'CUDA graphs' if results['graphs'] else 'no graphs'}",
        f"bandwidth of a large copy: {results['bandwidth'] / 1e9:.1f} GB/s",
        f"\n{'ms':34}{'measured':>10}{'limit':>10}{'ratio':>8}",
    ]

    def line(name: str, seconds: float, limit: float | None = None) -> None:
        beside = f"{1e3 * limit:10.3f}{seconds / limit:8.2f}" if limit else ""
        lines.append(f"{name:34}{1e3 * seconds:10.3f}{beside}")

    limit = least["forward"]["seconds"]
    for temperature, seconds in results["plain"].items():
        line(f"plain step, T={temperature}", seconds, limit)
    for nodes, seconds in results["forward"].items():
        line(f"forward of {nodes} nodes", seconds, limit)
    for kind, of in results["drafts"].items():
        line(f"{kind}: draft, {tree['depth'] + 1} levels", of["draft"], least["drafts"][kind]["seconds"])
        for temperature in of["round"]:
            seconds = round_seconds(results, kind, temperature, NOMINAL_TAU)
            line(f"{kind}: round of {tree['total_tokens']} nodes, T={temperature}", seconds)
            line(f"{kind}:   of it the rest, T={temperature}", rest(results, kind, temperature))
    lines += ["", *_predicted(results), "", *_aimed(results), "", _memory(results)]
    return "\n".join(lines)


def _predicted(results: Results) -> list[str]:
    lines = [f"{'speedup':18}{'pays from tau':>14}{'published tau':>14}{'predicted':>10}{'published':>10}{'ratio':>7}"]
    for row in predictions(results):
        beside = "   no published tau at hand"
        if row["tau"]:
            beside = f"{row['tau']:14.2f}{row['predicted']:10.2f}{row['published']:10.2f}"
            beside += f"{row['predicted_over_published']:7.2f}"
        name = f"{row['draft']}, T={row['temperature']:g}"
        lines.append(f"{name:18}{row['break_even_tau']:14.2f}{beside}")
    return [*lines, f"published: {PUBLISHED_SOURCE}"]


def _aimed(results: Results) -> list[str]:
    lines = [f"goals on an {GOALS_ON}, bfloat16, CUDA graphs"]
    for row in goals(results):
        value = "       -" if row["found"] is None else f"{row['found']:8.3f}"
        lines.append(f"{row['verdict']:14}{value}  at most {row['at_most']:<6g}{row['goal']}")
    return lines


def _memory(results: Results) -> str:
    parts = ", ".join(f"{part} {size / GIB:.2f}" for part, size in results["memory"].items() if size is not None)
    return f"memory in GiB: {parts}" + ("" if results["memory"]["peak"] else " (peak not measured on this device)")
