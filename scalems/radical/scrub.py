"""Takes secrets out of what is packed for others to read."""

from __future__ import annotations

import re

GONE = "<scrubbed>"

_NAME = (
    r"[\w.-]*(?:token|secret|passw(?:or)?d|passphrase|credential|api_?key|access_?key|authkey"
    r"|private_?key|secret_?key|curve|cookie|authorization)[\w.-]*"
)
_QUOTED = r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'"
_RULES = (
    # The user and password of a URL (RFC 3986, userinfo).
    (re.compile(r"(\b[a-zA-Z][\w+.-]*://)[^/\s@'\"]+@"), rf"\g<1>{GONE}@"),
    # Keys in PEM (RFC 7468), also with line ends that are written as \n.
    (
        re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END|\Z)", re.DOTALL),
        rf"\g<1>{GONE}\g<2>",
    ),
    (re.compile(r"(?i)\b(bearer|basic) +[\w+/=.~-]{8,}"), rf"\g<1> {GONE}"),
    # --name value
    (re.compile(rf"(?i)(--{_NAME}\s+)({_QUOTED}|\S+)"), rf"\g<1>{GONE}"),
    # name = value, "name": "value"
    (
        re.compile(rf"(?i)({_NAME}[\"']?\s*[=:]\s*)({_QUOTED}|[^\s,;}}\])]+)"),
        rf"\g<1>{GONE}",
    ),
)

# Of the variables of an environment only these are shown: what else somebody has in theirs
# is nobody's business.
_KNOWN = re.compile(
    r"(PATH|PWD|HOME|SHELL|LANG|TMPDIR|VIRTUAL_ENV|HOSTNAME|MANPATH|LOADEDMODULES|_LMFILES_|\w*PATH"
    r"|LC_\w+|PYTHON\w*|RADICAL_\w+|RP_\w+|SCALEMS_\w+|SLURM_\w+|PBS_\w+|LSB_\w+|COBALT_\w+|OMP_\w+"
    r"|MKL_\w+|CUDA_\w+|ROCR_\w+|MPI\w*|OMPI_\w+|PMI\w*|LMOD_\w+|MODULE\w*|CONDA_\w+|XDG_\w+)"
)
_VARIABLE = re.compile(r"(?:export +|declare +-x +|unset +)?(?P<name>[A-Za-z_]\w*)=")


def text(content: str) -> str:
    """Return a text without passwords, tokens and keys, as far as they can be told."""
    for pattern, to in _RULES:
        content = pattern.sub(to, content)
    return content


def environment(content: str) -> str:
    """Return a dump of environment variables with the values of those that matter only.

    What has no name, as the later lines of a value, is left out with its variable.
    """
    lines: list[str] = []
    shown = False
    for line in content.splitlines():
        match = _VARIABLE.match(line)
        if match is not None:
            shown = _KNOWN.fullmatch(match["name"]) is not None
            lines.append(line if shown else f"{line[: match.end()]}{GONE}")
        elif shown:
            lines.append(line)
    return text("\n".join(lines)) + "\n"
