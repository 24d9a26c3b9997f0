"""The documentation builds without a warning, and shows what the program has."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
pytest.importorskip("furo")
pytest.importorskip("myst_parser")

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the documentation with every warning an error, broken references included."""
    built = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q"]
    command += ["-d", str(built / "doctrees"), "-b", "html", str(DOCS), str(built / "html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return built / "html"


def text_of(page: Path) -> str:
    """Return the text of a page's article."""
    article = page.read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
    return html.unescape(re.sub(r"<[^>]+>", "", article))


def test_every_option_of_every_command_is_documented(site: Path) -> None:
    import scalems.cli
    import scalems.local
    import scalems.radical

    shown = text_of(site / "reference" / "commands.html")
    parsers = [scalems.local.parser, scalems.radical.parser, scalems.cli.parser()]
    documented = 0
    while parsers:
        for action in parsers.pop()._actions:
            if isinstance(action.choices, dict):  # commands below this one
                parsers += action.choices.values()
            for option in action.option_strings:
                assert option in shown
                documented += 1
    assert documented > 40


def test_the_app_of_the_example_is_shown(site: Path) -> None:
    assert "summary = analyse(members)" in text_of(site / "workflows.html")


def test_files_that_pages_name_are_there() -> None:
    root = DOCS.parent
    pages = [*DOCS.glob("*.md"), *DOCS.glob("examples/*/README.md")]
    named = {
        (page, name)
        for page in pages
        for name in re.findall(
            r"`(?:\./)?((?:scripts|envs|resource-configs)/[\w./-]+)`", page.read_text()
        )
        if "NAME" not in name and "DOMAIN" not in name and not name.endswith("/")
    }
    assert len(named) >= 2
    missing = [(str(page), name) for page, name in named if not (root / name).exists()]
    assert missing == []
