"""An ensemble of molecular dynamics runs of alanine dipeptide, and its free-energy landscapes.

Every member of the ensemble is one task: a short Langevin simulation in implicit solvent, at one
of the temperatures and with a seed of its own. One more task analyses all members together, and
a last one draws the figure. OpenMM, NumPy and Matplotlib are installed in the Task environment
only: the tasks import them, and the client that runs this script could not.

    python -m scalems.local --venv task ensemble.py
    python -m scalems.radical --resource local.localhost --venv task ensemble.py -n 4
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from landscape import BASINS, GAS_CONSTANT, basin, dihedral, draw

import scalems

TIME_STEP = 0.004  # ps; hydrogens of 3 dalton and constrained bonds allow it
STRIDE = 50  # steps between two recorded frames
HOT = 600  # K: warm enough to leave any basin within picoseconds


@scalems.task
def simulate(pdb: str, *, temperature: float, seed: int, steps: int) -> dict[str, Any]:
    """Run one member; return its angles (degrees), energies (kJ/mol) and how and where it ran."""
    import io
    import platform
    import time

    import numpy as np
    import openmm as mm
    from openmm import app, unit

    molecule = app.PDBFile(io.StringIO(pdb))
    system = app.ForceField("amber14-all.xml", "implicit/obc2.xml").createSystem(
        molecule.topology, constraints=app.HBonds, hydrogenMass=3.0, removeCMMotion=False
    )
    use_builtin_obc2(system)
    integrator = mm.LangevinMiddleIntegrator(temperature, 2.0, TIME_STEP)
    integrator.setRandomNumberSeed(seed)
    # For 22 atoms the plain Reference platform is faster than the vectorised CPU platform.
    engine = mm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(molecule.topology, system, integrator, engine)
    simulation.context.setPositions(molecule.positions)
    simulation.context.setVelocitiesToTemperature(HOT, seed)
    # Heat and cool, so that each run starts from a structure of its own.
    for kelvin, share in ((HOT, 5), (temperature, 10)):
        integrator.setTemperature(kelvin)
        simulation.step(steps // share)

    freedom = 3 * system.getNumParticles() - system.getNumConstraints()
    frames, energies, temperatures, started = [], [], [], time.perf_counter()
    for _ in range(max(2, steps // STRIDE)):
        simulation.step(STRIDE)
        state = simulation.context.getState(getPositions=True, getEnergy=True)
        kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
        frames.append(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
        energies.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
        temperatures.append(2 * kinetic / (freedom * GAS_CONSTANT))
    days = (time.perf_counter() - started) / 86400

    index = {(atom.residue.name, atom.name): atom.index for atom in molecule.topology.atoms()}
    backbone = [("ACE", "C"), ("ALA", "N"), ("ALA", "CA"), ("ALA", "C"), ("NME", "N")]
    points = np.array(frames)[:, [index[atom] for atom in backbone]]
    picoseconds = len(frames) * STRIDE * TIME_STEP
    return {
        "temperature": temperature,
        "seed": seed,
        "phi": dihedral(points[:, :4]).tolist(),
        "psi": dihedral(points[:, 1:]).tolist(),
        "potential_energy": energies,
        "kinetic_temperature": temperatures,
        "picoseconds": picoseconds,
        "ns_per_day": picoseconds / 1000 / days,
        "platform": f"OpenMM {mm.__version__}, {engine.getName()} platform",
        "host": platform.node(),
        "prefix": sys.prefix,
    }


def use_builtin_obc2(system: Any) -> None:
    """Exchange the generic form of OBC2 for OpenMM's own: same energy, some 40 times faster."""
    import openmm as mm

    forces = list(system.getForces())
    place = next(i for i, force in enumerate(forces) if isinstance(force, mm.CustomGBForce))
    builtin = mm.GBSAOBCForce()
    for particle in range(system.getNumParticles()):
        charge, radius, scaled_radius = forces[place].getParticleParameters(particle)
        builtin.addParticle(charge, radius + 0.009, scaled_radius / radius)
    system.removeForce(place)
    system.addForce(builtin)


@scalems.task
def analyse(members: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return populations and averages, with standard errors, for each temperature."""
    import numpy as np

    def average(series: list[Any]) -> tuple[float, float]:
        """Return mean and standard error: of members, or of the parts of the only one."""
        parts = series if len(series) > 1 else np.array_split(series[0], min(5, len(series[0])))
        means = [np.mean(part) for part in parts]
        return float(np.mean(means)), float(np.std(means, ddof=1) / np.sqrt(len(means)))

    summary = []
    for temperature in sorted({member["temperature"] for member in members}):
        group = [member for member in members if member["temperature"] == temperature]
        visited = [basin(np.array(m["phi"]), np.array(m["psi"])) for m in group]
        population = {name: average([names == name for names in visited]) for name in BASINS}
        row: dict[str, Any] = {"temperature": temperature, "population": population}
        for quantity in ("kinetic_temperature", "potential_energy"):
            row[quantity] = average([member[quantity] for member in group])
        beta, alpha = population["beta"][0], population["alpha-R"][0]
        if beta > 0 and alpha > 0:  # no free energy of a basin that no member has visited
            difference = -GAS_CONSTANT * temperature * np.log(alpha / beta)
            row["free_energy_of_alpha_over_beta"] = float(difference)
        summary.append(row)
    return summary


@scalems.app
def main() -> None:
    """Read the options, run the ensemble, and write the figure and the numbers."""
    structure = Path(__file__).with_name("alanine-dipeptide.pdb")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--replicas", type=int, default=4, help="runs per temperature")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[300, 450, 600])
    parser.add_argument("--steps", type=int, default=25_000, help="of 4 fs, for each run")
    parser.add_argument("--output", type=Path, default=Path("ensemble.png"), help="the figure")
    parser.add_argument("--results", type=Path, help="the numbers (default: OUTPUT as .json)")
    options = parser.parse_args()

    runs = itertools.product(options.temperatures, range(options.replicas))
    members = [
        simulate(structure.read_text(), temperature=temperature, seed=seed, steps=options.steps)
        for seed, (temperature, _) in enumerate(runs, start=1)
    ]
    summary = analyse(members)  # futures are arguments like any other value
    figure = draw(members, summary)

    options.output.write_bytes(figure.result())
    series = {"phi", "psi", "potential_energy", "kinetic_temperature"}
    facts = [{k: v for k, v in m.result().items() if k not in series} for m in members]
    client = {"prefix": sys.prefix, "has_openmm": importlib.util.find_spec("openmm") is not None}
    report = {"client": client, "summary": summary.result(), "members": facts}
    results = options.results or options.output.with_suffix(".json")
    results.write_text(json.dumps(report, indent=2) + "\n")

    print(f"client: {sys.prefix} ({'has' if client['has_openmm'] else 'cannot import'} OpenMM)")
    for host, prefix, engine in sorted({(r["host"], r["prefix"], r["platform"]) for r in facts}):
        print(f"tasks:  {prefix} on {host} ({engine})")
    for row in report["summary"]:
        shares = ", ".join(f"{name} {row['population'][name][0]:.0%}" for name in BASINS)
        kelvin, error = row["kinetic_temperature"]
        print(f"{row['temperature']:5g} K: measured {kelvin:.0f} ± {error:.0f} K; {shares}")
    print(f"wrote {options.output} and {results}")
