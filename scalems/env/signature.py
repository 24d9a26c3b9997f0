"""Signatures of manifests: who vouches for a build, by SSH keys that people have already.

`ssh-keygen -Y` signs and verifies (https://man.openbsd.org/ssh-keygen, "-Y sign"): OpenSSH 8.1
and newer, which is on every cluster, and a key that is in an agent serves too. Who may sign is
said by the project, in ``envs/allowed_signers`` (same page, "ALLOWED SIGNERS"). Without that
file, signatures are not asked for.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from scalems.env import layout, manifest
from scalems.env.finding import Finding
from scalems.env.layout import MANIFEST
from scalems.env.manifest import Manifest
from scalems.env.state import Synced, SyncedEnv
from scalems.errors import EnvironmentNotReady, ScalemsError, UsageError
from scalems.host.files import write_atomic
from scalems.host.local import CommandFailed, run
from scalems.host.scratch import scratch

NAMESPACE = "scalems-manifest"
"""A signature made for something else does not count."""
SIGNERS = "allowed_signers"
_SIGNATURE = f"{MANIFEST}.sig"


class SignatureError(ScalemsError):
    """A manifest cannot be signed."""


def sign(synced: Synced, manifests: Mapping[str, Manifest], key: Path) -> list[str]:
    """Sign the manifests of a resource's builds; return the names of the environments.

    :param manifests: by environment.

    :param key: a private SSH key, or the public part of one that the agent has.
    :raises UsageError: there is no such key.
    :raises SignatureError: it cannot be used.
    """
    if not key.is_file():
        raise UsageError(f"there is no key {key}", remedy="ssh-keygen -t ed25519 -f KEY makes one")
    signed = []
    for env in synced.envs:
        if env.name not in manifests:
            raise EnvironmentNotReady(
                f"{env.name!r} cannot be signed: its build is not usable",
                remedy=f"scalems env sync --resource {synced.label}",
            )
        message = _message(synced, env, manifests[env.name])
        with scratch("sign") as folder:
            text = folder / MANIFEST
            text.write_bytes(message)
            try:
                run(["ssh-keygen", "-Y", "sign", "-f", key.absolute(), "-n", NAMESPACE, text])
            except CommandFailed as error:
                raise SignatureError(
                    f"{env.name!r} cannot be signed with {key}: {_last(error)}",
                    remedy="if the key has a passphrase: `ssh-add KEY` first, then --sign KEY.pub",
                ) from error
            write_atomic(_place(synced, env, message), (folder / _SIGNATURE).read_text())
        signed.append(env.name)
    return signed


def check(synced: Synced, env: SyncedEnv, known: Manifest) -> Iterator[Finding]:
    """Yield what is wrong with the signature of a build, if the project says who may sign."""
    signers = env.spec.parent / SIGNERS
    if not signers.is_file():
        return
    remedy = f"scalems env sync --resource {synced.label} --sign KEY"
    message = _message(synced, env, known)
    signature = _place(synced, env, message)
    if not signature.is_file():
        yield Finding(
            env=env.name,
            kind="unsigned manifest",
            subject=f"{signers} says who may sign",
            remedy=remedy,
        )
        return
    try:
        who = _signer(signers, signature)
        if not who:
            yield Finding(
                env=env.name,
                kind="manifest signed by a key that may not",
                subject=f"{signers} does not have it",
                remedy=f"add the key to {signers}, or: {remedy}",
            )
            return
        argv = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", who, "-n", NAMESPACE]
        with tempfile.NamedTemporaryFile(prefix="scalems-verify-") as text:
            text.write(message)
            text.flush()
            words = ["sh", "-c", 'message=$1; shift; exec "$@" <"$message"', "sh", text.name]
            run([*words, *argv, "-s", str(signature)])
    except CommandFailed as error:
        missing = error.completed is None
        yield Finding(
            env=env.name,
            kind="signature cannot be verified" if missing else "wrong signature of the manifest",
            subject=_last(error),
            remedy="install OpenSSH's ssh-keygen" if missing else remedy,
        )


def _signer(signers: Path, signature: Path) -> str:
    """Return who made a signature, or an empty string if it is nobody who may.

    :raises CommandFailed: there is no ssh-keygen.
    """
    argv = ["ssh-keygen", "-Y", "find-principals", "-f", str(signers), "-s", str(signature)]
    try:
        found = run(argv).stdout.splitlines()
    except CommandFailed as error:
        if error.completed is None:
            raise
        return ""
    return found[0].partition(",")[0].strip() if found else ""


def _message(synced: Synced, env: SyncedEnv, known: Manifest) -> bytes:
    """Return what is signed: the bytes of the manifest where it is, else of what a host told."""
    if synced.host is not None:
        return manifest.text(known).encode()
    return (env.folder / MANIFEST).read_bytes()


def _place(synced: Synced, env: SyncedEnv, message: bytes) -> Path:
    """Return where a signature is: beside its manifest, or here for a build on another host."""
    if synced.host is None:
        return env.folder / _SIGNATURE
    found = hashlib.sha256(message).hexdigest()
    return layout.default().root / "signatures" / f"{env.name}-{found}.sig"


def _last(error: CommandFailed) -> str:
    if error.completed is None:
        return error.cause
    lines = (error.completed.stderr.strip() or error.completed.stdout.strip()).splitlines()
    return lines[-1].strip() if lines else error.cause
