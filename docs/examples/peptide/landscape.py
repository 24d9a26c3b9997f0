"""Dihedral angles, basins and free-energy maps of alanine dipeptide.

This module lies beside the script and travels to the tasks with it. NumPy and Matplotlib are
imported inside of the functions, since the client imports this module too and has neither.
"""

from __future__ import annotations

import io
from typing import Any

import scalems

BASINS = {"beta": r"$\beta$ and PPII", "alpha-R": r"$\alpha_R$", "alpha-L": r"$\alpha_L$"}
GAS_CONSTANT = 0.008314462618  # kJ/(mol K)


def dihedral(points: Any) -> Any:
    """Return the angles, in degrees, of an array of frames x 4 atoms x 3 coordinates."""
    import numpy as np

    first, axis, last = np.moveaxis(np.diff(points, axis=1), 1, 0)
    left, right = np.cross(first, axis), np.cross(axis, last)
    sine = (first * right).sum(-1) * np.linalg.norm(axis, axis=-1)
    return np.degrees(np.arctan2(sine, (left * right).sum(-1)))


def basin(phi: Any, psi: Any) -> Any:
    """Return the name of the basin of each pair of angles."""
    import numpy as np

    left, helical = (phi > 0) & (phi < 120), (psi > -120) & (psi < 50)
    return np.select([left, helical], ["alpha-L", "alpha-R"], default="beta")


def free_energy(phi: Any, psi: Any, temperature: float, *, width: float = 8.0) -> Any:
    """Return the free energy, in kJ/mol above its minimum, on a periodic grid of 5 degrees.

    The histogram of the angles is smoothed by a Gaussian of that width in degrees.
    """
    import numpy as np

    edges = np.arange(-182.5, 180, 5)  # bin centres from -180 to 175, so that 180 closes the period
    wrapped = [(angle + 182.5) % 360 - 182.5 for angle in (phi, psi)]
    counts = np.histogram2d(*wrapped, [edges, edges])[0]
    damping = np.exp(-2 * (np.pi * width / 5 * np.fft.fftfreq(len(counts))) ** 2)
    density = np.fft.ifft2(np.fft.fft2(counts) * np.outer(damping, damping)).real
    density = np.pad(density.clip(1e-9), (0, 1), mode="wrap")
    return -GAS_CONSTANT * temperature * np.log(density / density.max())


@scalems.task
def draw(members: list[dict[str, Any]], summary: list[dict[str, Any]]) -> bytes:
    """Return the figure as the bytes of a PNG file."""
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.linewidth": 0.8, "axes.titleweight": "bold"})
    figure = plt.figure(
        figsize=(max(7.6, 2.4 * len(summary) + 1), 6), dpi=200, layout="constrained"
    )
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.15, 1], hspace=0.04)
    maps = upper.subplots(1, len(summary), sharex=True, sharey=True, squeeze=False)[0]
    energies, populations = lower.subplots(1, 2)
    colours = matplotlib.colormaps["plasma"](np.linspace(0.08, 0.75, len(summary)))
    grid, levels = np.arange(-180, 181, 5), np.arange(0, 21, 2)

    for row, (axes, result) in enumerate(zip(maps, summary, strict=True)):
        temperature = result["temperature"]
        group = [member for member in members if member["temperature"] == temperature]
        phi, psi = (np.concatenate([m[angle] for m in group]) for angle in ("phi", "psi"))
        landscape = free_energy(phi, psi, temperature).T
        filled = axes.contourf(grid, grid, landscape, levels, cmap="viridis")
        axes.contour(grid, grid, landscape, levels, colors="white", linewidths=0.3)
        axes.set(title=f"{temperature:g} K", xlabel="φ", aspect="equal")
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set(ticks=[-120, 0, 120], major_formatter="{x:.0f}°")

        style = {"color": colours[row], "label": f"{temperature:g} K"}
        energy = np.concatenate([member["potential_energy"] for member in group])
        energies.hist(energy, bins=30, density=True, histtype="stepfilled", alpha=0.45, **style)
        energies.hist(energy, bins=30, density=True, histtype="step", color=colours[row])
        height, error = zip(*(result["population"][name] for name in BASINS), strict=True)
        place = np.arange(len(BASINS)) + (row - (len(summary) - 1) / 2) * 0.8 / len(summary)
        bars = {"yerr": error, "ecolor": "0.25", "capsize": 2}
        populations.bar(place, height, 0.7 / len(summary), alpha=0.85, **bars, **style)

    picoseconds = 0.2 * len(members[0]["phi"])
    upper.suptitle(
        f"Alanine dipeptide in implicit water: {len(members)} runs of {picoseconds:g} ps"
    )
    maps[0].set_ylabel("ψ")
    upper.colorbar(filled, ax=maps, label="free energy / kJ mol⁻¹", shrink=0.8, ticks=levels[::2])
    energies.set(xlabel="potential energy / kJ mol⁻¹", ylabel="probability density", yticks=[])
    populations.set(ylabel="population", ylim=(0, 1), xticks=range(len(BASINS)))
    populations.set_xticklabels(BASINS.values())
    for axes in (energies, populations):
        axes.spines[["top", "right"]].set_visible(False)
    populations.legend(frameon=False)
    output = io.BytesIO()
    figure.savefig(output, format="png")
    plt.close(figure)
    return output.getvalue()
