"""The peers that benchmarks run beside ours: in a venv of their own, made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-peers"
PACKAGES = ("distributed", "parsl", "executorlib", "numpy", "pandas")


def python() -> str:
    """Return the interpreter of the peers' venv, of this Python's version; make it if need be.

    :raises subprocess.CalledProcessError: the package index does not give them.
    """
    found = VENV / "bin" / "python"
    stamp = VENV / ".stamp"
    wanted = " ".join([sys.version, *PACKAGES])
    if not (found.exists() and stamp.is_file() and stamp.read_text() == wanted):
        uv = Path(sys.executable).with_name("uv")
        command = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, VENV]
        subprocess.run(command, check=True)
        command = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", found]
        subprocess.run([*command, *PACKAGES], check=True)
        stamp.write_text(wanted)
    return str(found)
