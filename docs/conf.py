"""Configuration of the documentation: `sphinx-build -W -n docs docs/_build/html`."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

# Help texts are the same in every terminal.
os.environ["COLUMNS"] = "88"
os.environ["NO_COLOR"] = "1"

project = "scalems"
author = "the scalems developers"
version = release = importlib.metadata.version("scalems")

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

extensions = ["myst_parser", "sphinx.ext.autodoc", "command_line"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"scalems {release}"
html_static_path = ["_static"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True

smartquotes = False  # they would turn the two hyphens of an option into a dash
nitpicky = True
# The standard library's pages are elsewhere, and type variables have none.
nitpick_ignore_regex = [
    (r"py:.*", r"(argparse|asyncio|collections|concurrent|enum|os|pathlib|typing|_io)\..*"),
    (r"py:.*", r"(Path|Future|ArgumentParser|PathLike|Namespace|Any)"),
    (r"py:(class|obj)", r"(.*\.)?([PRTF]|Needs)"),
    (r"py:.*", r"(optional|any|object)"),
    (
        r"py:class",
        r"(ensemble\.Mixed|Unasked|Payload|scalems\.workflow\.large\.Large)",
    ),  # a Literal, and what only the far side has
]

# Docstrings name their neighbours; these are documented under the name that users import.
ALIASES = {
    "task": "scalems.task",
    "app": "scalems.app",
    "Completed": "scalems.workflow.executable.Completed",
    "File": "scalems.File",
    "scalems.workflow.file.File": "scalems.File",
    "MixedEnsemble": "scalems.workflow.ensemble.MixedEnsemble",
    "ExecutableError": "scalems.workflow.executable.ExecutableError",
}


def resolve_alias(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element
) -> Element | None:
    """Resolve a reference by the name that its target is documented under."""
    target = ALIASES.get(node.get("reftarget", ""))
    if target is None or node.get("refdomain") != "py":
        return None
    python = env.get_domain("py")
    return python.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], target, node, contnode
    )


def setup(app: Sphinx) -> None:
    """Add what no option does."""
    app.connect("missing-reference", resolve_alias)
