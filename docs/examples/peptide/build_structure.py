"""Build the alanine dipeptide of this example from its internal coordinates.

Every atom is placed by a bond length, a bond angle and a dihedral angle (textbook values for
peptides), then the molecule is minimised in Amber14 with OBC2 implicit solvent and written as PDB.
Run it with the Python of an environment that has OpenMM:

    VENV/bin/python build_structure.py alanine-dipeptide.pdb
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from openmm import Context, LocalEnergyMinimizer, Vec3, VerletIntegrator, app, unit

PHI, PSI = -75.0, 145.0  # the polyproline II basin: the most populated one in water

# residue, atom, element, then reference atoms with length (angstrom), angle, dihedral (degrees)
Z_MATRIX = [
    ("ACE", "CH3", "C", None, 0.0, None, 0.0, None, 0.0),
    ("ACE", "C", "C", "ACE.CH3", 1.52, None, 0.0, None, 0.0),
    ("ACE", "O", "O", "ACE.C", 1.23, "ACE.CH3", 120.5, None, 0.0),
    ("ACE", "H1", "H", "ACE.CH3", 1.09, "ACE.C", 109.5, "ACE.O", 0.0),
    ("ACE", "H2", "H", "ACE.CH3", 1.09, "ACE.C", 109.5, "ACE.O", 120.0),
    ("ACE", "H3", "H", "ACE.CH3", 1.09, "ACE.C", 109.5, "ACE.O", -120.0),
    ("ALA", "N", "N", "ACE.C", 1.33, "ACE.CH3", 116.5, "ACE.O", 180.0),
    ("ALA", "H", "H", "ALA.N", 1.01, "ACE.C", 119.0, "ACE.O", 180.0),
    ("ALA", "CA", "C", "ALA.N", 1.46, "ACE.C", 121.9, "ACE.O", 0.0),
    ("ALA", "C", "C", "ALA.CA", 1.525, "ALA.N", 111.0, "ACE.C", PHI),
    ("ALA", "CB", "C", "ALA.CA", 1.53, "ALA.N", 110.1, "ALA.C", -122.5),  # L: seen from N
    ("ALA", "HA", "H", "ALA.CA", 1.09, "ALA.N", 109.0, "ALA.C", 118.0),
    ("ALA", "HB1", "H", "ALA.CB", 1.09, "ALA.CA", 109.5, "ALA.N", 60.0),
    ("ALA", "HB2", "H", "ALA.CB", 1.09, "ALA.CA", 109.5, "ALA.N", 180.0),
    ("ALA", "HB3", "H", "ALA.CB", 1.09, "ALA.CA", 109.5, "ALA.N", -60.0),
    ("ALA", "O", "O", "ALA.C", 1.23, "ALA.CA", 120.1, "ALA.N", PSI - 180.0),
    ("NME", "N", "N", "ALA.C", 1.33, "ALA.CA", 116.6, "ALA.N", PSI),
    ("NME", "H", "H", "NME.N", 1.01, "ALA.C", 119.0, "ALA.CA", 0.0),
    ("NME", "C", "C", "NME.N", 1.45, "ALA.C", 121.9, "ALA.CA", 180.0),
    ("NME", "H1", "H", "NME.C", 1.09, "NME.N", 109.5, "ALA.C", 60.0),
    ("NME", "H2", "H", "NME.C", 1.09, "NME.N", 109.5, "ALA.C", 180.0),
    ("NME", "H3", "H", "NME.C", 1.09, "NME.N", 109.5, "ALA.C", -60.0),
]


def place(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, angle: float, dihedral: float
) -> np.ndarray:
    """Return the point at `length` from a, with angle (…, a, b) and dihedral (…, a, b, c)."""
    angle, dihedral = np.radians([angle, dihedral])
    along = (a - b) / np.linalg.norm(a - b)
    normal = np.cross(b - c, along)
    normal /= np.linalg.norm(normal)
    frame = np.array([along, np.cross(normal, along), normal])
    local = [-np.cos(angle), np.cos(dihedral) * np.sin(angle), np.sin(dihedral) * np.sin(angle)]
    return a + length * np.asarray(local) @ frame


def build() -> tuple[app.Topology, list[Vec3]]:
    """Return the topology and the positions in nanometre, before minimisation."""
    topology, points, residues = app.Topology(), {}, {}
    chain = topology.addChain("A")
    # Three points in space stand in for the references that the first atoms do not have yet.
    start = {
        "a": np.zeros(3),
        "b": np.array([-1.0, 0.0, 0.0]),
        "c": np.array([-1.0, 1.0, 0.0]),
    }
    for residue, name, element, a, length, b, angle, c, dihedral in Z_MATRIX:
        if residue not in residues:
            residues[residue] = topology.addResidue(residue, chain)
        topology.addAtom(name, app.Element.getBySymbol(element), residues[residue])
        references = [points.get(key, start[k]) for key, k in ((a, "a"), (b, "b"), (c, "c"))]
        points[f"{residue}.{name}"] = place(*references, length, angle, dihedral)
    topology.createStandardBonds()
    return topology, [Vec3(*(p / 10)) for p in points.values()]


def main(output: str) -> None:
    """Build, minimise and write the molecule."""
    topology, positions = build()
    forcefield = app.ForceField("amber14-all.xml", "implicit/obc2.xml")
    context = Context(forcefield.createSystem(topology), VerletIntegrator(0.001))
    context.setPositions(positions)
    before = context.getState(getEnergy=True).getPotentialEnergy()
    LocalEnergyMinimizer.minimize(context, 0.1)
    state = context.getState(getEnergy=True, getPositions=True)
    with Path(output).open("w") as file:
        app.PDBFile.writeFile(topology, state.getPositions(), file, keepIds=True)
    kj = unit.kilojoule_per_mole
    energies = [e.value_in_unit(kj) for e in (before, state.getPotentialEnergy())]
    print(f"{output}: {len(positions)} atoms, {energies[0]:.1f} -> {energies[1]:.1f} kJ/mol")


if __name__ == "__main__":
    main(*sys.argv[1:])
