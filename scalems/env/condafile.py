"""conda's ``environment.yml`` as requirements of Python packages, as far as that goes.

Written to conda's rules of specifications:
https://docs.conda.io/projects/conda-build/en/stable/resources/package-spec.html#package-match-specifications
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from scalems.env import pep508
from scalems.errors import UsageError

_SPEC = re.compile(r"(?:[^\s:]+::)?(?P<name>[A-Za-z0-9_][\w.-]*)\s*(?P<version>.*)")
_BRACKET = re.compile(r"\[.*?version\s*=\s*['\"]?(?P<version>[^'\"\]]*).*\]")

_RENAMED = {
    "blas": "",
    "dask-core": "dask",
    "matplotlib-base": "matplotlib",
    "msgpack-python": "msgpack",
    "pytables": "tables",
    "python-graphviz": "graphviz",
    "python-tzdata": "tzdata",
    "pytorch": "torch",
    "seaborn-base": "seaborn",
}
"""Python packages that an index has under another name."""

_PROGRAMS = re.compile(
    r"amber(tools)?|cmake|compilers|cp2k|ffmpeg|fftw|gcc|gfortran|git|gromacs|graphviz|gxx|hdf5"
    r"|lammps|make|mpich|namd|nodejs|openjdk|openmpi|pandoc|perl|plumed|quantum-espresso|r-base|vmd"
)
_CONDA_ONLY = re.compile(
    r"_.*|lib(?!cst$|rosa$|tmux$|sass$).*|cuda.*|cudnn|nccl|mkl|openblas|ld_impl.*|r-.*|.*[-_]compiler"
    r"|.*_linux-64|python_abi|ca-certificates|openssl|ncurses|readline|sqlite|tk|tzdata|bzip2|xz"
    r"|zlib|zstd|zeromq|yaml|boost|boost-cpp|eigen|gsl|netcdf-fortran|mpi|icu|expat|freetype"
)
_TOOLS = ("pip", "setuptools", "wheel", "conda", "mamba")


@dataclass(frozen=True, kw_only=True)
class CondaFile:
    """What an ``environment.yml`` asks for.

    :param requirements: those that an index of Python packages can serve.
    :param left: the others, each with what to do about it.
    :param python: the Python versions that it says, if it does.
    """

    requirements: tuple[str, ...]
    left: tuple[str, ...]
    python: str


def parse(text: str, *, name: str) -> CondaFile:
    """Read an ``environment.yml``.

    :param name: of the file, for messages.
    :raises UsageError: it is no such file, or there is nothing to read YAML with.
    """
    try:
        import yaml
    except ImportError as error:
        raise UsageError(
            f"{name}: reading conda's files needs PyYAML", remedy="pip install pyyaml"
        ) from error
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not YAML: {error}", remedy="correct it there") from error
    listed = data.get("dependencies") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        raise UsageError(
            f"{name} has no list of dependencies",
            remedy="conda env export --from-history > environment.yml",
        )
    requirements: list[str] = []
    left: list[str] = []
    python = ""
    for one in listed:
        if isinstance(one, dict):
            requirements += [str(line) for line in one.get("pip") or () if line]
            continue
        kind, said = _translated(str(one).strip())
        if kind == "python":
            python = said
        elif kind:
            (requirements if kind == "package" else left).append(said)
    return CondaFile(requirements=tuple(requirements), left=tuple(left), python=python)


def _translated(line: str) -> tuple[str, str]:
    """Return what a line is (``package``, ``python``, ``left`` or nothing), and what it becomes."""
    match = _SPEC.fullmatch(line)
    if match is None:
        return "left", line
    name = match["name"].lower()
    if name in _TOOLS:
        return "", ""
    if _PROGRAMS.fullmatch(name):
        return "left", f"{line}: a program; declare it as [software.{name}], with its site modules"
    renamed = _RENAMED.get(name, name)
    if not renamed or _CONDA_ONLY.fullmatch(name):
        return "left", f"{line}: of conda only; what needs it brings it as a wheel"
    limits = _limits(match["version"])
    if limits is None:
        return "left", f"{line}: write its version as pip does"
    if name == "python":
        return "python", _python(limits)
    try:
        return "package", str(pep508.parse(renamed + limits))
    except InvalidRequirement:
        return "left", line


def _limits(text: str) -> str | None:
    """Return pip's spelling of a version; ``None`` if there is none."""
    bracket = _BRACKET.search(text)
    text = bracket["version"] if bracket else text.strip()
    if not text.startswith(("=", "<", ">", "!", "~")) and text:
        text = "==" + text.split()[0]  # without its build
    parts = []
    for part in text.replace(" ", "").split(",") if text else ():
        # A single = matches the start of a version; a second one is followed by the build.
        if fuzzy := re.fullmatch(r"=(?P<version>[^=]+)(?P<build>=.*)?", part):
            version = fuzzy["version"].removesuffix("*").removesuffix(".")
            parts.append(f"=={version}" if fuzzy["build"] else f"=={version}.*")
        elif exact := re.fullmatch(r"(==[^=]+)=.*", part):
            parts.append(exact[1])
        elif part not in ("*", "==*"):
            parts.append(part)
    try:
        return str(SpecifierSet(",".join(parts))) and ",".join(parts)
    except InvalidSpecifier:
        return None


def _python(limits: str) -> str:
    """Return the range of Python versions for a spec: from a minor version to below another."""
    return ",".join(_minors(limits))


def _minors(limits: str) -> Iterator[str]:
    pinned = re.fullmatch(r"==(\d+)\.(\d+)(\..*)?", limits)
    if pinned:
        major, minor = int(pinned[1]), int(pinned[2])
        yield f">={major}.{minor}"
        yield f"<{major}.{minor + 1}"
        return
    if limits and limits != "==3.*":
        yield limits
        if "<" not in limits:
            yield "<3.14"
