"""What environments take from their site, with real modules and a real GROMACS."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from homes import LABEL, add_task, make_scalems
from hypothesis import given
from hypothesis import strategies as st

from scalems.env import site, spec
from scalems.env.site import Site, Software
from scalems.errors import EnvironmentNotReady, ExitCode, UsageError

MODULES = Path("/etc/profile.d/modules.sh")
here = pytest.mark.skipif(
    not os.environ.get("CI") and not (shutil.which("gmx") and MODULES.exists()),
    reason="needs Debian's gromacs and environment-modules, which scripts/test installs as root",
)

GROMACS = Software(
    name="gromacs", command="gmx --version", pattern=r"GROMACS version:\s+([\d.]+)", range=">=2019"
)
WANTED = """
modules = ["tools/gmx"]
shell = ["export MY_SITE='a b'"]

[software.gromacs]
command = "gmx --version"
pattern = 'GROMACS version:\\s+([\\d.]+)'
version = ">=2019"
"""


def write_modules(folder: Path, *, wrapper: str = "") -> Path:
    """Write modules as a site does; one may put another `gmx` before that of the system."""
    (folder / "tools").mkdir(parents=True, exist_ok=True)
    lines = ["#%Module1.0", "setenv GMX_MAXBACKUP -1", "setenv PYTHONPATH /nowhere"]
    if wrapper:
        bin_folder = folder / "bin"
        bin_folder.mkdir(exist_ok=True)
        (bin_folder / "gmx").write_text(f"#!/bin/sh\necho 'GROMACS version:    {wrapper}'\n")
        (bin_folder / "gmx").chmod(0o755)
        lines.append(f"prepend-path PATH {bin_folder}")
    (folder / "tools" / "gmx").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def modulepath(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_modules(tmp_path / "modules")
    monkeypatch.setenv("MODULEPATH", str(folder))
    return folder


# --- probes -------------------------------------------------------------------------------


@here
def test_a_real_program_tells_its_version(modulepath):
    version = site.require(Site(modules=("tools/gmx",), software=(GROMACS,)), env="task")["gromacs"]
    said = subprocess.run(["gmx", "--version"], capture_output=True, text=True, check=True).stdout
    assert version in said
    assert int(version.split(".")[0]) >= 2019


@here
@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (Site(modules=("tools/none",), software=(GROMACS,)), "tools/none"),
        (Site(shell=("false",), software=(GROMACS,)), "gromacs: "),
        (Site(software=(Software(name="x", command="no-such-x", pattern="(.)"),)), "not found"),
        (Site(software=(Software(name="x", command="echo hi", pattern=r"(\d)"),)), "matches"),
        (
            Site(software=(Software(name="x", command="echo 1.0", pattern="(.+)", range=">=2"),)),
            "is 1.0, needs >=2",
        ),
        (
            Site(software=(Software(name="x", command="echo a", pattern="(.+)", range=">=2"),)),
            "is a, needs >=2",
        ),
        (Site(software=(Software(name="x", command="sleep 60", pattern="(.)"),)), "`sleep 60` did"),
        (Site(software=(Software(name="x", command="kill -9 $$", pattern="(.)"),)), "SIGKILL"),
    ],
)
def test_what_is_not_there_is_named(modulepath, monkeypatch, caplog, wanted, told):
    monkeypatch.setattr(site, "_LIMIT", 1.5)
    monkeypatch.setattr(site, "_PATIENCE", 1.0)
    with pytest.raises(EnvironmentNotReady) as caught:
        site.require(wanted, env="task")
    assert told in caught.value.cause
    assert "envs/task.toml" in str(caught.value.remedy)
    assert ("waiting for the version of x" in caplog.text) is ("sleep" in told)


def test_what_a_program_leaves_behind_holds_nothing_up(tmp_path):
    left = tmp_path / "left"
    leave = f"setsid sh -c 'echo $$ >{left}; exec sleep 300'"
    command = f"echo 1.0; {leave} & while [ ! -s {left} ]; do :; done"
    found = site.require(
        Site(software=(Software(name="x", command=command, pattern="(.+)"),)), env="task"
    )
    os.kill(int(left.read_text()), signal.SIGKILL)  # it still holds what the program printed to
    assert found == {"x": "1.0"}


@here
def test_variables_are_those_that_the_lines_change(modulepath, monkeypatch):
    monkeypatch.setenv("KEPT", "same")
    taken = Site(modules=("tools/gmx",), shell=("export MY_SITE='a\nb'", "export KEPT=same"))
    found = site.variables(taken)
    assert (found["GMX_MAXBACKUP"], found["MY_SITE"]) == ("-1", "a\nb")
    assert not {"KEPT", "PYTHONPATH", "_", "SHLVL"} & found.keys()
    with pytest.raises(EnvironmentNotReady, match="no-such-command"):
        site.variables(Site(shell=("no-such-command",)))
    assert site.variables(Site()) == {}


# --- specs --------------------------------------------------------------------------------


def load(tmp_path: Path, more: str) -> spec.EnvSpec:
    path = tmp_path / "task.toml"
    path.write_text('role = "task"\n' + more)
    return spec.load(path)


def test_a_spec_says_what_it_takes(tmp_path):
    loaded = load(tmp_path, WANTED)
    assert loaded.site == Site(
        modules=("tools/gmx",), shell=("export MY_SITE='a b'",), software=(GROMACS,)
    )
    assert Site.from_dict(json.loads(json.dumps(loaded.site.to_dict()))) == loaded.site


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('modules = ["a; rm -rf /"]', "modules[0]: "),
        ('modules = ["$(reboot)"]', "modules[0]: "),
        ('shell = ["a\\nb"]', "shell[0]: "),
        ('[software.x]\ncommand = "x"', "pattern"),
        ('[software.x]\ncommand = "x"\npattern = "x"', "has no group"),
        ('[software.x]\ncommand = "x"\npattern = "(x"', "not a regular expression"),
        ('[software.x]\ncommand = "x"\npattern = "(x)"\nversion = "new"', "not a version range"),
        ('[software."x y"]\ncommand = "x"\npattern = "(x)"', "x y"),
        ('[software.x]\ncomand = "x"\npattern = "(x)"', "did you mean 'command'"),
    ],
)
def test_mistakes_in_a_spec(tmp_path, more, told):
    with pytest.raises(UsageError) as caught:
        load(tmp_path, more)
    assert told in caught.value.cause


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)))
def test_no_module_name_becomes_a_command(names):
    lines = Site(modules=tuple(names)).lines
    script = "\n".join(["module() { printf '%s\\0' \"$2\"; }", *lines])
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout == b"".join(name.encode() + b"\0" for name in names)


# --- the whole way ------------------------------------------------------------------------


@here
@pytest.mark.network
def test_it_is_built_checked_and_entered(tmp_path):
    made = make_scalems(tmp_path)
    add_task(made.project)
    path = made.project / "envs" / "task.toml"
    path.write_text(path.read_text() + WANTED)
    folder = write_modules(tmp_path / "modules")
    made.env["MODULEPATH"] = str(folder)
    made.sync("--frozen")
    assert [one["action"] for one in made.sync()["envs"]] == ["unchanged", "unchanged"]
    report = made.check("--fast")
    row = next(row for row in report["parity"]["rows"] if row["what"] == "gromacs")
    assert set(row["values"]) == {"pilot", "task"}
    assert row["values"]["task"]

    entered = made.run(
        "env", "run", "task", "--", "sh", "-c", "echo $GMX_MAXBACKUP/$MY_SITE/$PYTHONPATH"
    )
    assert entered.stdout == "-1/a b/\n"
    script = tmp_path / "script.py"
    script.write_text(
        "import os, scalems\n\n@scalems.task\ndef seen():\n"
        "    names = ('GMX_MAXBACKUP', 'MY_SITE', 'PYTHONPATH')\n"
        "    return '/'.join(os.environ.get(name, '') for name in names)\n\n"
        "@scalems.app\ndef main():\n    print(seen().result())\n"
    )
    argv = [sys.executable, "-m", "scalems.local", "--venv", "task", str(script)]
    ran = subprocess.run(argv, env=made.env, cwd=made.project, capture_output=True, text=True)
    assert ran.stdout == "-1/a b/\n", ran.stderr

    # The site changes what the module means.
    before = made.build("task")
    write_modules(folder, wrapper="2018.1")
    report = made.check("--fast", code=ExitCode.NOT_READY)
    (finding,) = report["findings"]
    assert finding["kind"] == "unfit version of software"
    assert (finding["expected"], finding["found"]) == (">=2019", "2018.1")
    assert "[software] in envs/task.toml" in finding["remedy"]
    row = next(row for row in report["parity"]["rows"] if row["what"] == "gromacs")
    assert (row["values"]["task"], row["severity"]) == ("2018.1", "error")
    write_modules(folder, wrapper="2031.1")
    report = made.check("--fast", code=ExitCode.NOT_READY)
    finding = report["findings"][0]
    assert (finding["kind"], finding["found"]) == ("changed version of software", "2031.1")
    made.json(*finding["remedy"].split()[1:])
    assert made.check()["ok"]

    # What the former software has computed is not taken for what this one would.
    again = subprocess.run(argv, env=made.env, cwd=made.project, capture_output=True, text=True)
    assert again.stdout == ran.stdout, again.stderr
    told = made.run("why", "--store", tmp_path / ".scalems").stdout
    assert "the software of the site" in told
    assert "became 2031.1" in told
    assert made.build("task") != before

    # The spec changes what it takes.
    path.write_text(path.read_text().replace("'a b'", "'c'"))
    report = made.check(code=ExitCode.NOT_READY)
    assert [one["kind"] for one in report["findings"]] == ["spec changed since the sync"]
    shutil.rmtree(folder)
    done = made.run("env", "sync", "--resource", LABEL, code=ExitCode.NOT_READY)
    assert "tools/gmx" in done.stderr
