"""Where packages keep what they compile as they run: not in an environment, which is verified.

numba writes the machine code of functions with ``cache=True`` beside their source, unless
``NUMBA_CACHE_DIR`` names a folder; it keeps them there by the path of the source, which has the
build's fingerprint in it
(https://numba.readthedocs.io/en/stable/reference/envvars.html#envvar-NUMBA_CACHE_DIR).
"""

from __future__ import annotations

from collections.abc import Mapping

NUMBA = "NUMBA_CACHE_DIR"

LINE = f'export {NUMBA}="${{{NUMBA}:-${{XDG_CACHE_HOME:-$HOME/.cache}}/scalems/numba}}"'
"""The shell line that says so, where the user has not."""


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that say so, for a process that is started without a shell.

    :param environ: of that process otherwise; what it says itself stays.
    """
    home = environ.get("XDG_CACHE_HOME") or (
        f"{environ['HOME']}/.cache" if environ.get("HOME") else ""
    )
    if environ.get(NUMBA) or not home:
        return {}
    return {NUMBA: f"{home}/scalems/numba"}
