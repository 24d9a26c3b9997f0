"""Layers: an environment that adds packages to another, without a copy of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from homes import LABEL, Scalems, add_task, configure, make_scalems

from scalems import probe
from scalems.env import layer, lease, manifest, spec
from scalems.errors import UsageError

# --- specs --------------------------------------------------------------------------------------


def written(folder: Path, **specs: str) -> Path:
    for name, text in specs.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


def test_a_layer_has_what_its_base_has_and_more(tmp_path):
    folder = written(
        tmp_path,
        lib='role = "both"\npython = ">=3.11"\ninterpreter = "python3.11"\nmodules = ["gcc"]\n'
        'dependencies = ["numpy>=2"]\nconstraints = ["scipy<2"]\npre_exec = ["export A=1"]\n'
        'no-binary = ["numpy"]\n[software.gmx]\ncommand = "gmx"\npattern = "(.)"\n',
        md='role = "task"\nbase = "lib"\nmodules = ["gcc", "cuda"]\npre_exec = ["export B=1"]\n'
        'dependencies = ["pandas"]\n',
    )
    one = spec.load(folder / "md.toml")
    assert one.base == spec.load(folder / "lib.toml")
    assert (one.role.value, one.python, one.interpreter) == ("task", ">=3.11", "python3.11")
    assert one.dependencies == ("numpy>=2", "pandas")
    assert one.constraints == ("scipy<2",)
    assert one.site.modules == ("gcc", "cuda")
    assert [each.name for each in one.site.software] == ["gmx"]
    assert one.lines.pre_exec == ("export A=1", "export B=1")
    assert one.no_binary == ()  # it is built for the base


def test_a_base_comes_before_what_adds_to_it_and_is_there_once(tmp_path):
    written(tmp_path, lib='role = "task"', a='role = "task"\nbase = "lib"')
    written(tmp_path, b='role = "task"\nbase = "lib"', pilot='role = "pilot"')
    specs = [spec.load(tmp_path / f"{name}.toml") for name in ("pilot", "a", "b")]
    assert [one.name for one in spec.with_bases(specs)] == ["pilot", "lib", "a", "b"]
    specs.append(spec.load(tmp_path / "lib.toml"))
    assert [one.name for one in spec.with_bases(specs)] == ["pilot", "lib", "a", "b"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            'role = "task"\nbase = "lob"',
            "md.toml:2: base: there is no env spec 'lob' (did you",
        ),
        ('role = "both"\nbase = "lib"', "md.toml:1: role: an environment that adds to another"),
        ('role = "task"\nbase = "lib"\npython = ">=3.11"', "md.toml:3: python: is that of 'lib'"),
        ('role = "task"\nbase = "lib"\ninterpreter = "x"', "interpreter: is that of 'lib'"),
        ('role = "task"\nbase = "../lib"', "base: is not the name of an env spec"),
        ('role = "task"\nbase = 1', "base: must be a string"),
        ('role = "task"\nbase = "md"', "base: 'md' itself adds to 'md'"),
        ('role = "task"\nbase = "more"', "base: 'more' itself adds to 'lib'"),
    ],
)
def test_mistakes_are_named(tmp_path, text, told):
    folder = written(tmp_path, lib='role = "task"', more='role = "task"\nbase = "lib"', md=text)
    with pytest.raises(UsageError) as error:
        spec.load(folder / "md.toml")
    assert told in str(error.value)


# --- the link -----------------------------------------------------------------------------------


def test_scripts_run_the_interpreter_of_the_layer(tmp_path):
    venvs = []
    for name in ("base", "one with spaces"):
        venv = tmp_path / name / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        venvs.append(venv)
    base, venv = venvs
    (probe.site_packages(base) / "there.py").write_text("name = 'base'\n")
    (probe.site_packages(base) / "both.py").write_text("name = 'base'\n")
    (probe.site_packages(venv) / "both.py").write_text("name = 'layer'\n")
    body = "import sys, there, both\nprint(sys.prefix, there.name, both.name)\n"
    short, long, own, other = (base / "bin" / name for name in ("short", "long", "own", "other"))
    short.write_text(f"#!{base}/bin/python\n{body}")
    # As pip and uv write it where the path is long, or has a space in it.
    long.write_text(f"#!/bin/sh\n'''exec' '{base}/bin/python' \"$0\" \"$@\"\n' '''\n{body}")
    own.write_text("of the base")
    (venv / "bin" / "own").write_text("of the layer")
    other.write_bytes(b"\x7fELF...")
    for path in (short, long, own, other):
        path.chmod(0o755)
    layer.link(venv, base)
    # The space is no valid one of `#!`, as in any venv; the other form bears it.
    done = subprocess.run([venv / "bin" / "long"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{venv} base layer\n"
    assert (venv / "bin" / "short").read_text().startswith(f"#!{venv}/bin/python\n")
    assert (venv / "bin" / "own").read_text() == "of the layer"
    assert (venv / "bin" / "other").readlink() == other
    assert (venv / "bin" / "long").stat().st_mode & 0o777 == 0o755


# --- from end to end ----------------------------------------------------------------------------

SCRIPT = """
import scalems

@scalems.task
def where():
    import iniconfig, radical.utils, scalems, sys
    return [sys.prefix, iniconfig.__file__, radical.utils.__file__, scalems.__file__]

@scalems.app
def main():
    print(*where().result(), sep="\\n")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A Task venv `md` that adds a package to `lib`, which the resource does not name."""
    made = make_scalems(tmp_path_factory.mktemp("layers"))
    add_task(made.project, name="lib")
    configure(made.project, 'tasks = ["md"]\n')
    text = 'role = "task"\nbase = "lib"\ndependencies = ["iniconfig"]\n'
    (made.project / "envs" / "md.toml").write_text(text)
    made.sync()
    return made


def builds(made: Scalems, name: str) -> list[Path]:
    return sorted((made.root / "builds").glob(f"{name}-*"))


@pytest.mark.network
def test_only_its_own_packages_are_in_it(made: Scalems, tmp_path: Path):
    md, (lib,) = made.build("md"), builds(made, "lib")
    known, base = manifest.read(md), manifest.read(lib)
    assert known
    assert base
    assert set(probe.versions([probe.site_packages(md / "venv")])) == {"iniconfig"}
    assert known.versions == {**base.versions, "iniconfig": known.versions["iniconfig"]}
    assert known.files < base.files / 10
    assert known.base["input_digest"] == base.input_digest
    assert made.check("--deep")["ok"]
    assert "nothing to do" in made.run("env", "sync", "--resource", LABEL).stdout
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = [sys.executable, "-m", "scalems.local", "--resource", LABEL, "--venv", "md", script]
    done = subprocess.run(
        words, env=made.env, cwd=made.project, capture_output=True, text=True, check=True
    )
    prefix, own, theirs, ours = done.stdout.splitlines()[:4]
    assert prefix == str(md / "venv")
    assert own.startswith(str(md))
    assert theirs.startswith(str(lib))
    assert ours.startswith(str(lib))


@pytest.mark.network
def test_all_commands_know_it(made: Scalems):
    (lib,) = builds(made, "lib")
    shown = made.json("env", "show", "md")
    assert shown["adds to"] == {"name": "lib", "folder": str(lib)}
    assert {"iniconfig", "radical-pilot"} <= shown["distributions"].keys()
    assert made.json("env", "diff", "md", "lock:md")["same"]
    assert set(made.json("env", "diff", "md", str(lib), code=1)["distributions"]) == {"iniconfig"}
    assert made.json("env", "explain-key", "md")["same"]
    explained = made.json("env", "explain", "dill")["reasons"]
    (reason,) = [one for one in explained if one["env"] == "md"]
    assert any("'lib', which it adds to" in limit for limit in reason["limits"])
    exported = made.run("env", "export", "md", "--format", "requirements").stdout
    assert "radical-pilot==" in exported
    assert "iniconfig==" in exported
    entered = made.run("env", "run", "md", "--", "radical-pilot-version")
    assert entered.stdout.strip()
    (listed,) = [one for one in made.json("env", "list") if one["folder"] == str(lib)]
    assert listed["current"] == [LABEL]


@pytest.mark.network
def test_drift_in_either_is_found(made: Scalems):
    md, (lib,) = made.build("md"), builds(made, "lib")
    hook = probe.site_packages(md / "venv") / layer.PTH
    code = probe.site_packages(lib / "venv") / "dill" / "__init__.py"
    extra = probe.site_packages(lib / "venv") / "extra.py"
    for path, depth, env, kind in (
        (hook, "--fast", "md", "changed hook in site-packages"),
        (code, "--deep", "lib", "changed file"),
        (extra, "--fast", "lib", "extra in site-packages"),
    ):
        before, status = (path.read_bytes(), path.stat()) if path.exists() else (b"", None)
        path.write_bytes(before + b"# more\n")
        (found,) = made.check(depth, code=3)["findings"]
        assert (found["env"], found["kind"]) == (env, kind)
        if depth == "--fast":
            made.run("env", "run", "md", "--", "true", code=3)
        if status is None:
            path.unlink()
        else:
            path.write_bytes(before)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    aside = lib.with_name(".aside")
    lib.rename(aside)
    kinds = {(one["env"], one["kind"]) for one in made.check("--fast", code=3)["findings"]}
    assert {("lib", "missing build"), ("md", "what it adds to is missing")} <= kinds
    aside.rename(lib)
    assert made.check("--deep")["ok"]


@pytest.mark.network
def test_a_base_is_kept_while_something_adds_to_it(made: Scalems):
    (lib,) = builds(made, "lib")
    assert made.json("env", "gc", "--keep", "0")["builds"] == []
    code = (
        "import sys; from pathlib import Path; from scalems.env import lease;"
        f"lease.hold(Path({str(made.build('md'))!r})); print(flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as holder:
        assert holder.stdout
        holder.stdout.readline()
        assert lease.held(lib)
        holder.communicate()
    assert not lease.held(lib)


@pytest.mark.network
def test_it_follows_its_base_and_goes_back_with_it(made: Scalems):
    envs = made.project / "envs"
    before = {path: path.read_text() for path in envs.iterdir()}
    old, (old_lib,) = made.build("md"), builds(made, "lib")
    text = before[envs / "lib.toml"].replace("dependencies = []", 'dependencies = ["iniconfig"]')
    (envs / "lib.toml").write_text(text)
    (found,) = made.check("--fast", code=3)["findings"]
    assert (found["env"], found["kind"]) == ("lib", "spec changed since the sync")
    actions = {env["name"]: env["action"] for env in made.sync()["envs"]}
    assert actions == {"pilot": "reused", "lib": "built", "md": "built"}
    assert probe.versions([probe.site_packages(made.build("md") / "venv")]) == {}  # lib has it
    made.run("env", "run", "md", "--", "python", "-c", "import iniconfig")
    made.run("env", "rollback", "--resource", LABEL)
    assert made.build("md") == old
    assert made.check("--deep")["ok"]
    assert {
        Path(one["folder"]).name.partition("-")[0]
        for one in made.json("env", "gc", "--keep", "0")["builds"]
    } == {"lib", "md"}
    assert builds(made, "lib") == [old_lib]
    for path, content in before.items():
        path.write_text(content)
    made.sync()
    assert made.build("md") == old


@pytest.mark.network
def test_what_the_base_does_not_allow_is_named(made: Scalems):
    path = made.project / "envs" / "md.toml"
    before = path.read_text()
    path.write_text(before.replace('"iniconfig"', '"iniconfig", "idna<3"'))
    told = made.json("env", "lock", "md", code=1)
    path.write_text(before)
    assert "idna<3: dependencies in md.toml:3" in told["error"]
    assert "idna==" in told["error"]
    assert "locked in 'lib', which this one adds to" in told["error"]
