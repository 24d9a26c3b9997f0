"""Machines with kernels of their own: Linux as a process (User Mode Linux), on a network of theirs.

Each sees the files of this host, with a layer over them that is its own, and has real NFS. What
it is told to run, it runs as root of its own; nothing of it needs privileges here.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from homes import debian

_MODULES = ("overlay", "nfsd", "nfsv3", "nfsv4")
_SHIPPED = Path("/usr/lib/uml/modules")

_INIT = r"""
export PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin
mount -t proc none /proc
while read -r one; do insmod "$one" || echo "no $one"; done < "$work/modules"
over=$work/$role
mount -t tmpfs -o size=1500m none "$over"
mkdir "$over"/{upper,work,root}
root=$over/root
mount -t overlay none "$root" -o "lowerdir=/,upperdir=$over/upper,workdir=$over/work"
mount -t proc none "$root/proc"; mount -t sysfs none "$root/sys"
mount -t devtmpfs none "$root/dev"; mkdir -p "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs none "$root/dev/shm"; mount -t devpts none "$root/dev/pts"
mount -t tmpfs none "$root/run"
mount -t hostfs none "$root$work/out" -o "$work/out"
ip link set lo up; ip link set eth0 up; ip addr add "$address/24" dev eth0
exec chroot "$root" /bin/bash "$work/main.sh"
"""

_SERVE = r"""
mkdir -p /run/served; mount -t tmpfs none /run/served; cp -a "$work/served/." /run/served
mount -t nfsd nfsd /proc/fs/nfsd
exportfs -o rw,no_root_squash,fsid=0,insecure '10.9.0.0/24:/run/served'
echo 10 > /proc/fs/nfsd/nfsv4leasetime; echo 10 > /proc/fs/nfsd/nfsv4gracetime
echo 10 > /proc/sys/fs/nfs/nlm_grace_period
rpc.nfsd 8 && rpc.mountd && touch "$work/out/serves"
sleep infinity
"""

_MOUNT = r"""
case $version in 3) from=/run/served ;; *) from=/ ;; esac
mkdir -p /shared
for _ in $(seq 60); do
    mount -t nfs -o "vers=$version" "10.9.0.1:$from" /shared && break
    sleep 0.5
done
grep /shared /proc/mounts > "$work/out/$role.mount"
"""

_MAIN = r"""
hostname "$role"
rpcbind -w; rpc.statd --no-notify
if [ "$role" = server ]; then . "$work/serve.sh"; fi
. "$work/mount.sh"
. "$work/$role.sh" > "$work/out/$role.out" 2> "$work/out/$role.err"
echo $? > "$work/out/$role.code"
cd /; umount /shared
echo o > /proc/sysrq-trigger; sleep 60
"""


@dataclass
class Machines:
    """A server that exports a folder by NFS, and machines that mount it at ``/shared``.

    :param work: what they share with this host; ``served`` in it is what the server begins with.
    :param version: of NFS.
    """

    work: Path
    version: str
    network: str = field(default_factory=lambda: f"239.192.{random.randrange(1, 250)}.1")
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """Where machines leave files for this host."""
        return self.work / "out"

    def start(self, role: str, script: str = "") -> subprocess.Popen[bytes]:
        """Start a machine that runs a script of bash and is switched off then."""
        number = len(self.running) + 1
        (self.work / f"{role}.sh").write_text(script)
        (self.work / role).mkdir()
        words = {
            "role": role,
            "address": f"10.9.0.{number}",
            "work": str(self.work),
            "version": self.version,
        }
        card = f"52:54:00:00:00:{number:02x}"
        argv = [
            *("linux.uml", "mem=1G", f"umid={role}", "root=none", "rootfstype=hostfs", "ro"),
            *("rootflags=/", f"init={self.work}/init.sh", "con=null", "con0=null,fd:1"),
            *("con1=null,fd:1", "quiet", f"eth0=mcast,{card},{self.network},1102,0"),
            *(f"{key}={value}" for key, value in words.items()),
        ]
        with (self.work / f"{role}.log").open("wb") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(self.work / "memory"), "HOME": str(self.work)},
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def ended(self, role: str, process: subprocess.Popen[bytes], limit: float = 400) -> str:
        """Wait until a machine is switched off; return what its script has printed."""
        process.wait(limit)
        code = self.out / f"{role}.code"
        told = self.told(role)
        assert code.exists(), told
        assert code.read_text().strip() == "0", told
        return (self.out / f"{role}.out").read_text()

    def told(self, role: str) -> str:
        """Return all that a machine has said."""
        files = [self.work / f"{role}.log", *sorted(self.out.glob(f"{role}.*"))]
        return "\n".join(
            f"{one.name}: {one.read_text(errors='replace')[-2000:]}"
            for one in files
            if one.exists()
        )

    def wait_for(self, name: str, limit: float = 60) -> None:
        """Wait until a machine has left a file."""
        end = time.monotonic() + limit
        while not (self.out / name).exists():
            assert time.monotonic() < end, self.told(name.partition(".")[0])
            time.sleep(0.1)

    @staticmethod
    def cut_off(process: subprocess.Popen[bytes]) -> None:
        """Take the power away from a machine."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def machines(work: Path, served: Path, version: str) -> Iterator[Machines]:
    """Have a server that exports a copy of a folder; at the end, no machine is left."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("User Mode Linux is for x86_64")
    debian("linux.uml", "user-mode-linux")
    debian("modprobe", "kmod")
    debian("exportfs", "nfs-kernel-server")
    debian("rpcbind")
    for name in ("out", "memory"):
        (work / name).mkdir(parents=True)
    _modules(work)
    for name, text in (("serve", _SERVE), ("mount", _MOUNT), ("main", _MAIN)):
        (work / f"{name}.sh").write_text(text)
    (work / "init.sh").write_text(f"#!/bin/bash{_INIT}")
    (work / "init.sh").chmod(0o755)
    shutil.copytree(served, work / "served", symlinks=True)
    made = Machines(work=work, version=version)
    try:
        made.start("server")
        made.wait_for("serves")
        yield made
    finally:
        for process in made.running:
            made.cut_off(process)


def _modules(work: Path) -> None:
    """List the kernel's modules in the order in which they can be loaded."""
    (version,) = [one.name for one in _SHIPPED.iterdir()]
    copied = work / "modules.d" / "lib" / "modules"
    shutil.copytree(_SHIPPED, copied)
    base = copied.parent.parent
    subprocess.run(["depmod", "-b", base, version], check=True)
    needed: dict[str, None] = {}
    for name in _MODULES:
        argv = ["modprobe", "-S", version, "-d", base, "--show-depends", name]
        told = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        needed |= {line.split()[1]: None for line in told.splitlines() if "insmod" in line}
    (work / "modules").write_text("".join(f"{path}\n" for path in needed))
