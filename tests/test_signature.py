"""Signatures of manifests, with real SSH keys."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from homes import LABEL, Scalems


def make_key(path: Path, passphrase: str = "") -> Path:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", str(path)]
    subprocess.run(argv, check=True)
    return path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("keys") / "mine")


@pytest.fixture
def made(small_home: Scalems, key: Path) -> Iterator[Scalems]:
    """A home whose project says that the key may sign; afterwards it says nothing."""
    signers = small_home.project / "envs" / "allowed_signers"
    public = key.with_suffix(".pub").read_text()
    signers.write_text(f'me@lab.example namespaces="scalems-manifest" {public}')
    yield small_home
    signers.unlink()
    signature(small_home).unlink(missing_ok=True)
    small_home.sync()


def signature(made: Scalems) -> Path:
    return made.build("pilot") / "manifest.json.sig"


def kinds(made: Scalems) -> list[str]:
    done = made.run("env", "check", "--resource", LABEL, "--fast", "--json", code=None)
    (report,) = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 3)
    return [finding["kind"] for finding in report["findings"]]


@pytest.mark.network
def test_only_what_was_signed_by_who_may_is_ready(made: Scalems, key: Path, tmp_path: Path):
    assert kinds(made) == ["unsigned manifest"]
    assert made.sync("--sign", str(key))["signed"] == ["pilot"]
    assert kinds(made) == []
    assert made.sync(SCALEMS_SIGNING_KEY=str(key))["signed"] == ["pilot"]
    good = signature(made).read_bytes()

    other = make_key(tmp_path / "other")
    made.sync("--sign", str(other))
    assert kinds(made) == ["manifest signed by a key that may not"]

    # Of something else, and for something else.
    text = tmp_path / "text"
    for content, namespace in (
        (b"something else", "scalems-manifest"),
        ((made.build("pilot") / "manifest.json").read_bytes(), "file"),
    ):
        text.write_bytes(content)
        subprocess.run(
            ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", namespace, str(text)],
            check=True,
            capture_output=True,
        )
        shutil.move(tmp_path / "text.sig", signature(made))
        assert kinds(made) == ["wrong signature of the manifest"]

    for damaged in (b"", b"not one", good[: len(good) // 2], b"\xff" * 300):
        signature(made).write_bytes(damaged)
        assert kinds(made), damaged
    signature(made).write_bytes(good)
    assert kinds(made) == []


@pytest.mark.network
def test_a_key_that_cannot_be_used_is_told_of(made: Scalems, tmp_path: Path):
    locked = make_key(tmp_path / "locked", "a passphrase")
    done = made.run("env", "sync", "--resource", LABEL, "--sign", locked, code=1)
    assert "ssh-add" in done.stderr
    done = made.run("env", "sync", "--resource", LABEL, "--sign", tmp_path / "none", code=2)
    assert "there is no key" in done.stderr
    (tmp_path / "text").write_text("no key")
    made.run("env", "sync", "--resource", LABEL, "--sign", tmp_path / "text", code=1)
    assert not signature(made).exists()


@pytest.mark.network
def test_without_ssh_keygen_a_check_says_so(made: Scalems, key: Path, tmp_path: Path):
    made.sync("--sign", str(key))
    done = made.run("env", "check", "--fast", code=3, PATH=str(tmp_path))
    assert "ssh-keygen" in done.stderr + done.stdout
