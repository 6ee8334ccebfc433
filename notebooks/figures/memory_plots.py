"""Pictures of chapter 10: what real models ask of a device's memory, and what the width of a pass costs there.

As in `plots`: numbers -> Figure, and beside it the same numbers -> one line of text.
"""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fspad_ref.errors import InputError
from fspad_ref.viz.style import BLACK, CYCLE, HATCHES, MARKERS, PLATE, styled

Bill = Mapping[str, float]  # part of the memory -> GiB
Panels = Mapping[str, Mapping[str, Bill]]  # what is done -> model -> its bill
Curve = Mapping[int, float]  # nodes of a pass -> seconds


@styled
def memory_bars(panels: Panels, devices: Mapping[str, float]) -> Figure:
    """A bar a model, made of its parts; a dashed line where the memory of each device ends.

    devices: name -> GiB. Raises InputError without a bill.
    """
    if not panels or not all(panels.values()):
        raise InputError("expected a bill of at least one model in every panel, found none. Add one.")
    models = list(next(iter(panels.values())))
    parts = list(dict.fromkeys(part for bills in panels.values() for bill in bills.values() for part in bill))
    figure = Figure(figsize=(5.4 * len(panels), 0.36 * len(models) + 1.9), layout="constrained")
    widest = max(sum(bill.values()) for bills in panels.values() for bill in bills.values())
    row = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, bills) in zip(row, panels.items(), strict=True):
        _stacks(axes, bills, parts)
        _ends(axes, devices)
        axes.set(xlabel="GiB", xlim=(0, 1.12 * max(widest, *devices.values())), ylim=(len(models) - 0.4, -1.1))
        axes.set_title(title, pad=10)
        axes.set_yticks(range(len(models)), models)
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
    handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(),
                                                                             strict=True)}  # fmt: skip
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(parts), fontsize=9)
    return figure


def _stacks(axes: Axes, bills: Mapping[str, Bill], parts: list[str]) -> None:
    for place, bill in enumerate(bills.values()):
        begin = 0.0
        for part, size in bill.items():
            look = parts.index(part)
            axes.barh(place, size, 0.66, left=begin, color=CYCLE[look], hatch=HATCHES[look], edgecolor="white",
                      linewidth=0.4, label="_" * (place > 0) + part)  # fmt: skip
            begin += size
        axes.text(begin + 1, place, f"{begin:.0f}", va="center", fontsize=9, bbox=PLATE)


def _ends(axes: Axes, devices: Mapping[str, float]) -> None:
    by_size: dict[float, list[str]] = {}
    for name, size in devices.items():
        by_size.setdefault(size, []).append(name)
    for size, names in by_size.items():
        axes.axvline(size, color=BLACK, linestyle="--", linewidth=1)
        axes.text(size, -0.62, ", ".join(names) + " ", ha="right", fontsize=8)


def memory_claim(panels: Panels, devices: Mapping[str, float]) -> str:
    """How many models of each panel fit on each device."""
    parts = []
    for title, bills in panels.items():
        totals = [sum(bill.values()) for bill in bills.values()]
        fit = [f"{sum(total <= size for total in totals)} on {size:g} GiB" for size in sorted({*devices.values()})]
        parts.append(f"{title}: {', '.join(fit)}")
    models = len(next(iter(panels.values())))
    return f"Of {models} models fit, {'; '.join(parts)}."


@styled
def width_curves(curves: Mapping[str, Curve], marked: int) -> Figure:
    """Time of a pass over N nodes over that of one, a line a device, on logarithmic axes; a dashed line at `marked`.

    Where lines coincide, the earlier ones show through by their larger markers.
    """
    figure = Figure(figsize=(7.2, 3.7), layout="constrained")
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        sizes = sorted(curve)
        axes.plot(sizes, [curve[n] / curve[sizes[0]] for n in sizes], color=CYCLE[index], marker=MARKERS[index],
                  markersize=max(4, 10 - 2 * index), label=name)  # fmt: skip
    axes.axvline(marked, color=BLACK, linestyle="--", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="nodes N of a pass", ylabel="time over that of one node")
    sizes = sorted({n for curve in curves.values() for n in curve})
    axes.set_xticks(sizes, sizes, fontsize=8)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.legend(fontsize=9)
    return figure


def width_claim(curves: Mapping[str, Curve], marked: int) -> str:
    """What a pass over `marked` nodes costs on every device, in passes over one."""
    parts = [f"{curve[marked] / curve[min(curve)]:.1f} on {name}" for name, curve in curves.items()]
    return f"A pass over {marked} nodes takes, in passes over a single node, {', '.join(parts)}."
