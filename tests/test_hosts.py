"""Environments on a host that is reached over SSH: an sshd of the test's own, another home."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from homes import Scalems, add_task, make_scalems
from hypothesis import given, settings
from hypothesis import strategies as st
from sshd import FarHost, listening, make_host, require_sshd

from scalems.env.layout import Layout
from scalems.env.remote import boot, link, runtime
from scalems.env.remote.store import Store, clear_code
from scalems.errors import UsageError
from scalems.host import ssh, wire
from scalems.host.address import Host, HostError, split

FAR = "lab.cluster"


# --- names, words and messages ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "destination", "port"),
    [
        ("lab", "lab", None),
        ("me@login1.lab.example:2222", "me@login1.lab.example", 2222),
        ("me@[fe80::1]:22", "me@fe80::1", 22),
        ("10.0.0.7", "10.0.0.7", None),
    ],
)
def test_a_host_is_named_as_for_ssh(name, destination, port):
    assert split(name) == (destination, port)


@given(st.text() | st.from_regex(r"[-a-z@:\[\]$`;&| ]{1,12}", fullmatch=True))
def test_no_name_of_a_host_is_an_option_or_means_anything_to_a_shell(name):
    try:
        destination, port = split(name)
    except UsageError:
        return
    assert shlex.quote(destination.replace("@", "").replace(":", "")).isprintable()
    assert not destination.startswith("-")
    assert not set(destination) & set(" \t\n'\"$`;&|<>()*?!\\")
    assert port is None or 0 < port < 65536


@settings(max_examples=6)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=30))
def test_no_name_of_an_interpreter_gets_out_of_its_quotes(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("quotes")
    hostile = f"{name}'; touch escaped; $(touch escaped) `touch escaped` \"; touch escaped"
    done = subprocess.run(
        ["sh", "-c", runtime.command(hostile)], cwd=folder, capture_output=True, check=False
    )
    assert list(folder.iterdir()) == []
    assert runtime.MISSING.encode() in done.stdout


def test_a_python_that_a_bundle_has_brought_is_found_last(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "sys", SimpleNamespace(version_info=(3, 99, 0)))
    python = tmp_path / "a b" / "pythons" / "cpython-3.99.1-0" / "bin" / "python3.99"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "the one that was brought: $1"\n')
    python.chmod(0o755)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SCALEMS_HOME": str(tmp_path / "a b")}
    argv = ["sh", "-c", runtime.command()]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "the one that was brought: -I\n"
    env["SCALEMS_HOME"] = str(tmp_path / "other")
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert runtime.MISSING in done.stdout


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text())))
def test_a_message_arrives_as_it_was_sent(message):
    stream = io.BytesIO()
    wire.send(stream, message)
    wire.send(stream, {"next": 1})
    stream.seek(0)
    assert wire.receive(stream) == message
    assert wire.receive(stream) == {"next": 1}
    assert wire.receive(stream) is None


@given(st.binary(max_size=200))
def test_what_is_no_message_is_told(data):
    try:
        message = wire.receive(io.BytesIO(data))
    except wire.Broken:
        return
    assert message is None or isinstance(message, dict)


@given(st.text())
def test_no_shipped_file_gets_out_of_the_store(name):
    place = Layout(Path("/nowhere"))
    try:
        path = Store(place).path("0" * 64, name)
    except ValueError:
        return
    assert path.parent == Path("/nowhere/shipped") / ("0" * 64)
    assert path.name == name
    assert not name.startswith(".")


def test_a_file_that_is_not_what_was_sent_is_not_kept(tmp_path):
    store = Store(Layout(tmp_path))
    digest = "0" * 64
    store.receive(io.BytesIO(b"other"), sha256=digest, name="a.whl", size=5)
    assert not store.has(digest, "a.whl")
    with pytest.raises(EOFError):
        store.receive(io.BytesIO(b"hal"), sha256=digest, name="a.whl", size=5)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("printed", "cause", "remedy"),
    [
        ("root@lab: Permission denied (publickey).", "only a person can do", "ControlMaster=yes"),
        ("Host key verification failed.", "is not known here", "ssh lab"),
        ("@ REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key ver", "another host key", "-R lab"),
        ("ssh: Could not resolve hostname lab: x", "not known", "~/.ssh/config"),
        ("ssh: connect to host lab port 22: Connection refused", "cannot be reached", "ssh lab"),
        ("something else", "was lost", "ssh lab"),
    ],
)
def test_what_the_ssh_client_prints_becomes_a_cause_and_a_remedy(
    printed, cause, remedy, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    monkeypatch.delenv(ssh.COMMAND, raising=False)
    error = ssh.explain(Host(name="lab"), printed, 255)
    assert cause in error.cause
    assert remedy in (error.remedy or "")


def test_the_code_is_put_in_place_once_and_again_when_it_is_not_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEMS_HOME", str(tmp_path))
    digest, code = runtime.pack()
    whole = json.dumps({"size": len(code)}).encode() + b"\n" + code
    wanted = {"digest": digest, "root": ""}

    def place(sent: bytes) -> list[object]:
        sink = io.BytesIO()
        folder = boot.place(io.BytesIO(sent), sink, wanted)
        assert (folder / "scalems" / "env" / "remote" / "agent.py").is_file()
        return [json.loads(line) for line in sink.getvalue().splitlines()]

    assert place(whole) == [{"runtime": False}]
    assert place(b"") == [{"runtime": True}]
    (tmp_path / "runtime" / digest / "scalems" / "probe.py").unlink()
    assert place(whole) == [{"runtime": False}]
    with pytest.raises(OSError, match="not what was sent"):
        boot.place(io.BytesIO(whole[:-1] + b"x"), io.BytesIO(), {**wanted, "digest": "0" * 64})
    assert [one.name for one in (tmp_path / "runtime").iterdir()] == [digest]


_HALF = """
import io, os, signal, sys, zipfile
from scalems.env.remote import boot, runtime
digest, code = runtime.pack()
def half(archive, folder):
    for name in archive.namelist()[:20]:
        archive.extract(name, folder)
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "half":
    zipfile.ZipFile.extractall = half
sent = b'{"size": %d}\\n' % len(code) + code
folder = boot.place(io.BytesIO(sent), io.BytesIO(), {"digest": digest, "root": ""})
assert (folder / "scalems" / "env" / "remote" / "agent.py").is_file()
"""


def test_code_that_was_being_unpacked_when_its_process_was_killed_is_never_run(tmp_path):
    env = {**os.environ, "SCALEMS_HOME": str(tmp_path)}
    words = [sys.executable, "-c", _HALF]
    assert subprocess.run([*words, "half"], env=env, check=False).returncode == -signal.SIGKILL
    (left,) = (tmp_path / "runtime").iterdir()
    assert left.name.startswith(".")
    subprocess.run([*words, "whole"], env=env, check=True)
    assert left.exists()  # who unpacks may be in a container, with another number here
    shutil.rmtree(next((tmp_path / "runtime").glob("[!.]*")))
    os.utime(left, (0, 0))
    subprocess.run([*words, "whole"], env=env, check=True)
    assert len(list((tmp_path / "runtime").iterdir())) == 1, "what was left is gone"


def test_a_folder_of_a_killed_process_is_removed_and_no_other(tmp_path):
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    code = (
        "import os, signal; from scalems.host.scratch import scratch, clear\n"
        "with scratch('a') as folder: os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode < 0
    (left,) = tmp_path.iterdir()
    other = tmp_path / "scalems-tmp-otherhost-01234567-1.a-x"
    other.mkdir()
    code = (
        "import os; from scalems.host.scratch import scratch, clear\n"
        "with scratch('b') as folder: clear(); assert folder.is_dir()"
    )
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert list(tmp_path.iterdir()) == [other]
    assert left != other


def test_code_that_no_client_has_used_for_long_is_removed(tmp_path):
    runtimes = tmp_path / "runtime"
    for name, age, whole in (("new", 29, True), ("old", 31, True), (".now", 0, False)):
        (runtimes / name).mkdir(parents=True)
        touched = runtimes / name / (boot.LISTING if whole else "module.py")
        touched.write_text("{}")
        then = time.time() - age * 86400
        os.utime(touched, (then, then))
    (runtimes / ".half").mkdir()
    os.utime(runtimes / ".half", (0, 0))
    assert clear_code(Layout(tmp_path), dry_run=True) == 2
    assert len(list(runtimes.iterdir())) == 4
    assert clear_code(Layout(tmp_path), dry_run=False) == 2
    assert {one.name for one in runtimes.iterdir()} == {"new", ".now"}


# --- a real connection --------------------------------------------------------------------


@pytest.fixture(scope="session")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarHost]:
    require_sshd()
    host = make_host(tmp_path_factory.mktemp("far") / "host")
    (host.home / ".bashrc").write_text("echo 'Welcome <<<scalems to the cluster'; echo x >&2\n")
    with listening(host):
        yield host


def configure(made: Scalems, more: str = "", *, host: str = "lab") -> None:
    (made.project / "resource-configs" / "lab.toml").write_text(
        f'[cluster]\nextends = "local.localhost"\npilot = "pilot"\nhost = "{host}"\n{more}'
    )


@pytest.fixture(scope="session")
def lab(far: FarHost, tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A home in which a resource on a host was synced. A test that changes it must mend it."""
    made = far.of(make_scalems(tmp_path_factory.mktemp("lab")))
    configure(made)
    done = made.run("env", "sync", "--resource", FAR)
    assert "sending scalems" in done.stderr
    return made


def far_build(far: FarHost) -> Path:
    return (far.root / "current" / FAR / "pilot").resolve(strict=True)


@pytest.mark.ssh
@pytest.mark.network
def test_a_sync_builds_there_and_tells_rp_here_and_there(lab: Scalems, far: FarHost):
    venv = str(far_build(far) / "venv")
    for home in (lab.home, far.home):
        file = home / ".radical" / "pilot" / "configs" / "resource_lab.json"
        fields = json.loads(file.read_text())["cluster"]
        assert (fields["virtenv"], fields["virtenv_mode"]) == (venv, "use")
    assert not (lab.root / "builds").exists()
    assert far.root.stat().st_mode & 0o077 == 0
    again = lab.run("env", "sync", "--resource", FAR)
    assert "nothing to do" in again.stdout
    (report,) = lab.json("env", "check", "--resource", FAR)
    assert report["ok"]
    assert report["envs"][0]["folder"] == str(far_build(far))


@pytest.mark.ssh
@pytest.mark.network
def test_what_changes_there_is_found_here_and_mended(lab: Scalems, far: FarHost):
    extra = next((far_build(far) / "venv" / "lib").iterdir()) / "site-packages" / "sneaked.py"
    extra.write_text("")
    definition = far.home / ".radical" / "pilot" / "configs" / "resource_lab.json"
    right = definition.read_text()
    definition.write_text(right.replace('"use"', '"create"'))
    (report,) = lab.json("env", "check", "--resource", FAR, code=3)
    found = {(one["kind"].partition(" on ")[0], one["subject"]) for one in report["findings"]}
    assert ("extra in site-packages", "sneaked.py") in found
    assert ("RP resource definition changed", "virtenv_mode") in found
    assert all(FAR in one["remedy"] for one in report["findings"] if one["severity"] == "error")
    lab.run("env", "check", "--resource", FAR, "--repair", "--quiet")
    assert definition.read_text() == right
    assert not extra.exists()


@pytest.mark.ssh
@pytest.mark.network
def test_all_commands_look_there(lab: Scalems, far: FarHost):
    (build,) = lab.json("env", "list", "--resource", FAR)
    assert (build["folder"], build["current"]) == (str(far_build(far)), [FAR])
    assert lab.json("env", "list") == []
    shown = lab.json("env", "show", "pilot", "--resource", FAR)
    assert (shown["host"], shown["folder"]) == ("lab", str(far_build(far)))
    same = lab.json("env", "diff", f"{FAR}/pilot", "lock:pilot")
    assert same["distributions"] == {}
    lab.run("env", "diff", f"{FAR}/pilot", "pilot", "--files", code=2)
    explained = lab.json("env", "explain", "radical.pilot")
    assert f"{FAR}/pilot" in explained["installed"]
    subjects = {one["subject"]: one for one in lab.json("doctor", "--resource", FAR)}
    assert subjects["connection to lab"]["verdict"] == "good"
    lab.run("resource", "check", FAR)


@pytest.mark.ssh
@pytest.mark.network
@pytest.mark.parametrize(
    "word", ["two words", "a'b\"c", "$HOME `id` ; exit 7", "new\nline", "!x\\"]
)
def test_a_command_runs_there_with_its_words_as_they_are(lab: Scalems, far: FarHost, word):
    code = "import sys; print(sys.prefix); print(repr(sys.argv[1]))"
    command = ("env", "run", "pilot", "--resource", FAR, "--", "python", "-c", code, word)
    done = lab.run(*command)
    assert done.stdout.splitlines()[-2:] == [str(far_build(far) / "venv"), repr(word)]


@pytest.mark.ssh
@pytest.mark.network
def test_former_builds_there_are_returned_to_and_removed(lab: Scalems, far: FarHost):
    spec = lab.project / "envs" / "pilot.toml"
    before, first = spec.read_text(), far_build(far)
    try:
        spec.write_text(before + 'shell = ["export OTHER=2"]\n')
        lab.run("env", "sync", "--resource", FAR)
        second = far_build(far)
        assert second != first
        result = lab.json("env", "rollback", "--resource", FAR)
        assert result["envs"] == [{"name": "pilot", "folder": str(first)}]
        assert far_build(far) == first
        definition = far.home / ".radical" / "pilot" / "configs" / "resource_lab.json"
        assert str(first) in definition.read_text()
    finally:
        spec.write_text(before)
    gone = lab.json("env", "gc", "--resource", FAR, "--keep", "0", "--dry-run")
    assert [one["folder"] for one in gone["builds"]] == [str(second)]
    assert second.exists()
    lab.run("env", "gc", "--resource", FAR, "--keep", "0")
    assert first.exists()
    assert not second.exists()
    assert not (far.root / "shipped").exists()
    lab.run("env", "sync", "--resource", FAR)
    assert far_build(far) == first


@pytest.mark.ssh
@pytest.mark.network
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_sync_that_is_ended_leaves_nothing_there(lab: Scalems, far: FarHost, number):
    spec = lab.project / "envs" / "pilot.toml"
    before = spec.read_text()
    spec.write_text(before + 'shell = ["export OTHER=1"]\n')
    kept = set((far.root / "builds").glob("[!.]*"))
    try:
        process = subprocess.Popen(
            lab.argv("env", "sync", "--resource", FAR, "--frozen"),
            cwd=lab.project,
            env=lab.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr
        for line in process.stderr:
            if "installing" in line:
                break
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode in (130, -number)
        limit = time.monotonic() + 60
        while far.processes() and time.monotonic() < limit:
            time.sleep(0.1)
        assert far.processes() == []
        assert set((far.root / "builds").glob("[!.]*")) == kept
    finally:
        spec.write_text(before)
    lab.run("env", "check", "--resource", FAR, "--fast")


@pytest.mark.ssh
@pytest.mark.network
def test_layers_and_what_is_to_be_compiled_are_built_there(lab: Scalems, far: FarHost):
    add_task(lab.project, name="lib")
    envs = lab.project / "envs"
    text = (envs / "lib.toml").read_text().replace('role = "task"', 'role = "both"')
    dependencies = 'no-binary = ["markupsafe"]\ndependencies = ["markupsafe<4"]'
    (envs / "lib.toml").write_text(text.replace("dependencies = []", dependencies))
    (envs / "md.toml").write_text('role = "task"\nbase = "lib"\ndependencies = ["iniconfig"]\n')
    (lab.project / "resource-configs" / "more.toml").write_text(
        '[layers]\nextends = "local.localhost"\npilot = "lib"\ntasks = ["md"]\nhost = "lab"\n'
    )
    sync = ("env", "sync", "--resource", "more.layers")
    done = lab.run(*sync)
    assert "building markupsafe" in done.stderr
    assert "installing 1 distributions to those of lib" in done.stderr
    assert "nothing to do" in lab.run(*sync).stdout
    code = "import iniconfig, markupsafe._speedups as s; print(iniconfig.__file__, s.__file__)"
    words = ("env", "run", "md", "--resource", "more.layers", "--", "python", "-c", code)
    own, theirs = lab.run(*words).stdout.split()[-2:]
    builds = far.root / "builds"
    assert (own.startswith(f"{builds}/md-"), theirs.startswith(f"{builds}/lib-")) == (True, True)
    # What is changed in the base is found, and mended without a new build of the layer.
    extra = Path(theirs).parent.parent / "extra.py"
    extra.write_text("")
    (report,) = lab.json("env", "check", "--resource", "more.layers", code=3)
    wrong = [one["env"] for one in report["findings"] if one["severity"] == "error"]
    assert wrong == ["lib"], report["findings"]
    again = lab.json(*sync)
    assert {env["name"]: env["action"] for env in again["envs"]} == {"lib": "built", "md": "reused"}
    (report,) = lab.json("env", "check", "--resource", "more.layers", "--deep")
    assert report["ok"]
    # A layer keeps its base; both go when nothing has them any more.
    (lab.project / "resource-configs" / "more.toml").unlink()
    gone = lab.json("env", "gc", "--resource", FAR, "--keep", "0", "--dry-run")
    assert not [one for one in gone["builds"] if Path(one["folder"]) == Path(own).parents[4]]


@pytest.mark.ssh
@pytest.mark.slow
@pytest.mark.network
def test_a_host_without_any_network_gets_its_packages_from_here(lab: Scalems, tmp_path):
    require_sshd()
    if subprocess.run(["unshare", "-n", "true"], check=False).returncode:
        pytest.skip("nobody may make network namespaces here")
    host = make_host(tmp_path / "island", name="island", proxy="unshare -n")
    made = host.of(make_scalems(tmp_path))
    configure(made, host="island")
    project = made.project / "local"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "local-thing"\nversion = "1"\n'
    )
    (project / "local_thing.py").write_text("")
    spec = made.project / "envs" / "pilot.toml"
    text = spec.read_text() + '[packages.local-thing]\npath = "../local"\neditable = true\n'
    dependencies = 'no-binary = ["markupsafe"]\ndependencies = ["markupsafe<4"]'
    spec.write_text(text.replace("dependencies = []", dependencies))
    try:
        assert host.ssh("cat /proc/net/route").stdout.count("\n") <= 1
        done = made.run("env", "sync", "--resource", FAR)
        assert "reaches no package index" in done.stderr
        assert "building markupsafe" in done.stderr
        (report,) = made.json("env", "check", "--resource", FAR, "--deep")
        assert report["ok"]
        venv = far_build(host) / "venv"
        code = "import radical.pilot, local_thing; print(local_thing.__file__)"
        printed = host.ssh(f"{venv}/bin/python -I -c {shlex.quote(code)}").stdout
        assert printed.startswith(str(venv))
        (project / "local_thing.py").write_text("x = 1\n")
        (report,) = made.json("env", "check", "--resource", FAR, code=3)
        assert "source changed" in report["findings"][0]["kind"]
        again = made.run("env", "sync", "--resource", FAR)
        sent = [line for line in again.stderr.splitlines() if "sending" in line]
        assert len(sent) == 1, again.stderr  # the wheel that changed, and no other
        assert "local_thing" in sent[0]
    finally:
        host.hang_up()


@pytest.mark.ssh
@pytest.mark.parametrize(
    ("config", "more", "told"),
    [
        ("  Port 1\n", "", "cannot be reached"),
        ("  UserKnownHostsFile /dev/null\n", "", "is not known here"),
        ("  IdentityFile /dev/null\n", "", "log in once"),
        ("", 'python = "python3.1"\n', "has no Python"),
        ("", 'root = "/proc/nowhere"\n', "cannot be put in place"),
    ],
)
def test_a_connection_that_fails_says_why(far: FarHost, tmp_path, config, more, told):
    made = far.of(make_scalems(tmp_path))
    configure(made, more)
    text = (far.folder / "config").read_text()
    file = tmp_path / "config"
    file.write_text(f"Host lab\n{config}{text.partition(chr(10))[2]}")
    for old in config.split()[:1]:
        lines = [line for line in text.splitlines() if line.split()[0] != old]
        file.write_text("\n".join([lines[0], config.rstrip(), *lines[1:], ""]))
    (tmp_path / "run").mkdir(mode=0o700)
    ways = {"SCALEMS_SSH": f"ssh -F {file}", "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    done = made.run("env", "sync", "--resource", FAR, code=None, **ways)
    assert done.returncode in (1, 3)
    assert told in done.stderr, done.stderr
    assert "remedy" in done.stderr or "nowhere" in done.stderr


@pytest.mark.ssh
@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("head -c 100000 /dev/urandom; printf Welcome", ""),
        ("echo 'Press Enter'; read answer; [ -z \"$answer\" ] || exit 7", ""),
        ("exit", "first line"),
        ("echo 'no quota' >&2; exit 3", "no quota"),
        ("cat >/dev/null", "may wait for input"),
        ("yes", "prints without end"),
    ],
)
def test_start_up_files_are_passed_over_or_named(far: FarHost, monkeypatch, lines, told):
    for name, value in far.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(link, "_PATIENCE", 2.0 if "cat" in lines else 60.0)
    file = far.home / ".bashrc"
    before = file.read_text()
    file.write_text(f"{lines}\n")
    try:
        if not told:
            with link.connect(Host(name="lab")) as there:
                assert there.root == far.root
            return
        with pytest.raises(HostError) as caught, link.connect(Host(name="lab")):
            pass
        assert told in f"{caught.value.cause} {caught.value.remedy}"
        assert "not interactive" in str(caught.value.remedy)
    finally:
        file.write_text(before)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('host = "-oProxyCommand=x"', "is not the name of a host"),
        ('host = "lab"\nroot = "relative"', "absolute path"),
        ('host = "lab"\nroot = "~/two words"', "without spaces"),
        ('root = "/x"', "there is none"),
        ('host = "lab"\npython = "a!b"', "without '!'"),
    ],
)
def test_mistakes_in_a_config_are_told(tmp_path, line, told):
    made = make_scalems(tmp_path)
    (made.project / "resource-configs" / "lab.toml").write_text(
        f'[cluster]\nextends = "local.localhost"\npilot = "pilot"\n{line}\n'
    )
    assert told in made.run("env", "sync", "--resource", FAR, code=2).stderr


def test_the_folder_of_connections_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    folder = ssh._control_folder()
    assert folder is None or folder.stat().st_mode & 0o777 == 0o700
    base = Path(f"/tmp/s{os.getpid()}")
    base.mkdir()
    try:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
        (base / f"scalems-ssh-{os.getuid()}").symlink_to(tmp_path)
        assert ssh._control_folder() is None
    finally:
        (base / f"scalems-ssh-{os.getuid()}").unlink()
        base.rmdir()
