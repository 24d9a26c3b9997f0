"""Known causes of failed runs: what RP's logs say, what that means, and what mends it.

Each rule was seen in the logs of a real run, see ``tests/data/rp-logs``, or is a message of
a batch system or of the C library that has been the same for years.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scalems.radical import surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from scalems.radical.surroundings import Place

    Explain = Callable[[Place, Mapping[str, str]], tuple[str, str]]

_SYNC = "scalems env sync --resource {label}"
_DEFINITION = "scalems resource check {label} shows the definition, field by field"
_HOST = "correct the endpoints of {label} (see `scalems resource show {label}`), or the network"
_SPACE = "free some space, or set another folder: --pilot-option sandbox=FOLDER"


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why a run failed.

    :param text: a sentence for people.
    :param remedy: the command or the edit that mends it.
    :param evidence: the line of a log that says so, with its file; empty if no log does.
    """

    text: str
    remedy: str
    evidence: str = ""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one cause shows in the logs.

    :param pattern: searched in each line; its named groups are used in the texts.
    :param text: may name its groups, and `label`, `venv`, `task` and `sandbox`.
    :param files: names of files that it is looked for in, by a pattern.
    :param explain: makes text and remedy where they depend on what there is.
    :param vague: what can be seen of the venvs now says it better, if something is wrong there.
    """

    pattern: str
    text: str = ""
    remedy: str = _DEFINITION
    files: str = ""
    explain: Explain | None = None
    vague: bool = False
    compiled: re.Pattern[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compiled", re.compile(self.pattern))


def _missing_module(place: Place, found: Mapping[str, str]) -> tuple[str, str]:
    return surroundings.missing_module(place, found["module"])


def _rejected(pattern: str, what: str, option: str) -> Rule:
    return Rule(
        pattern=pattern,
        text=f"The batch system does not accept the {what} of the job.",
        remedy=f"give another one with {option}, or correct the resource config; "
        "`sinfo` and `sacctmgr show assoc user=$USER` (Slurm) list what you may use",
    )


# The first one that is found is told: what is more certain to be the root comes first.
RULES: tuple[Rule, ...] = (
    # --- the machine ---
    Rule(
        pattern=r"No space left on device|Disk quota exceeded",
        text="There is no room left where the pilot works ({sandbox}).",
        remedy=_SPACE,
    ),
    Rule(
        pattern=r"oom[-_]kill|Out [Oo]f [Mm]emory|OUT_OF_MEMORY|Exceeded job memory limit",
        text="The job has used more memory than it may, and was killed for that.",
        remedy="run fewer calls at a time (--cores), ask for more memory (--pilot-option memory=MB)"
        " or for whole nodes",
    ),
    Rule(
        pattern=r"Killed\s+\$LAUNCHER radical-pilot-agent_0",
        text="The pilot's agent was killed: by somebody, or by the system as memory was short.",
        remedy="run it again: it goes on where it was; `dmesg` tells what the system has killed",
        files="bootstrap_0.*",
    ),
    Rule(
        pattern=r"Cannot allocate memory|^MemoryError",
        text="The host gave no more memory.",
        remedy="run fewer calls at a time (--cores); `ulimit -v` and `free` show the limits",
    ),
    Rule(
        pattern=r"Resource temporarily unavailable|can't start new thread|fork: retry",
        text="No more processes or threads can be started here.",
        remedy="raise `ulimit -u`, or end leftovers; `scalems doctor` shows both",
    ),
    Rule(
        pattern=r"Too many open files",
        text="No more files can be opened here.",
        remedy="raise `ulimit -n`; `scalems doctor` shows it",
    ),
    Rule(
        pattern=r"version `(?P<version>GLIBC\S+)' not found",
        text="A compiled package needs {version}, and this node's C library is older than that of "
        "the host that the environment was built on.",
        remedy="sync on a node of this kind, or pin versions with wheels for an older glibc in the "
        "env spec",
    ),
    Rule(
        pattern=r"Illegal instruction",
        text="A program was compiled for a newer CPU than this node has.",
        remedy="sync on a node of this kind, or ask for other nodes",
    ),
    # --- the batch system ---
    _rejected(
        r"[Ii]nvalid partition|[Uu]nknown queue|invalid queue",
        "partition or queue",
        "--queue NAME",
    ),
    _rejected(
        r"Invalid account|[Ii]nvalid project|account/partition combination",
        "account",
        "--project NAME",
    ),
    Rule(
        pattern=r"Required partition not available|PartitionNotAvailable|[Qq]ueue is not enabled",
        text="The partition or queue takes no jobs now: it is drained, or not active.",
        remedy="wait, or name another one with --queue NAME; `sinfo -s` and `scontrol show "
        "partition` (Slurm) list them",
    ),
    _rejected(
        r"Invalid feature specification|Invalid generic resource|reservation is invalid"
        r"|[Ii]nvalid constraint|Invalid node name|Memory specification can not be satisfied",
        "features, GPUs, memory, nodes or reservation",
        "--pilot-option KEY=VALUE",
    ),
    Rule(
        pattern=r"[Tt]ime limit .*(invalid|exceed)|PartitionTimeLimit|walltime .*exceed",
        text="The batch system does not accept the run time of the job.",
        remedy="ask for less with --runtime MIN; `sinfo -o '%P %l'` (Slurm) lists the limits",
    ),
    Rule(
        pattern=r"[Nn]ode configuration is not available|[Nn]ode count|too many (nodes|CPUs)"
        r"|More processors requested than permitted",
        text="The batch system has no nodes like those that the job asks for.",
        remedy="ask for fewer --nodes or --cores, or correct cores_per_node in the config: "
        "`scalems resource show {label}`",
    ),
    _rejected(r"[Ii]nvalid qos", "QOS", "--queue PARTITION:QOS"),
    Rule(
        pattern=r"(QOS|Assoc)MaxWall\w+",
        text="The job is longer than your account or its QOS may run one.",
        remedy="ask for less --runtime, or another QOS with --queue PARTITION:QOS; "
        "`sacctmgr show assoc user=$USER format=account,qos,maxwall` and `sacctmgr show qos "
        "format=name,maxwall` (Slurm) list the limits",
    ),
    Rule(
        pattern=r"Job violates accounting|QOSMax\w+|AssocMax\w+|AssocGrp\w+",
        text="The job is beyond the limits of your account.",
        remedy="ask for fewer --cores or less --runtime, or end other jobs of yours",
    ),
    Rule(
        pattern=r"[Uu]nable to contact slurm controller|resolve_ctls_from_dns_srv"
        r"|slurm_persist_conn_open|munge.*(failed|err)"
        r"|Connection refused.*(6817|6818|pbs)",
        text="The batch system does not answer.",
        remedy="see whether `sinfo` (Slurm) or `qstat` (PBS) answers on this host",
    ),
    Rule(
        pattern=r"(?P<what>sbatch|qsub|bsub|squeue|qstat): (command )?not found"
        r"|No such file or directory: '(?P<path>sbatch|qsub|bsub|squeue|qstat)'",
        text="There is no {what}{path} here: this is not a host that submits jobs.",
        remedy="run on a login node of the cluster, or use another --resource",
    ),
    Rule(
        pattern=r"DUE TO TIME LIMIT",
        text="The job has used up its run time.",
        remedy="ask for more with --runtime MIN; the next run goes on where this one was",
    ),
    Rule(
        pattern=r"DUE TO (?P<why>PREEMPTION|NODE FAILURE|JOB REQUEUE)",
        text="The batch system has ended the job: {why}.",
        remedy="run it again: it goes on where it was",
    ),
    Rule(
        pattern=r"CANCELLED AT (?P<when>\S+)",
        text="Somebody has cancelled the job at {when}.",
        remedy="run it again: it goes on where it was",
    ),
    # --- the Pilot venv ---
    Rule(
        vague=True,
        pattern=r"given virtenv does not exist at (?P<what>\S+)",
        text="The Pilot venv {what} is not there.",
        remedy=_SYNC,
    ),
    Rule(
        vague=True,
        pattern=r"mkdir: cannot create directory \W(?P<what>/\S*)\W: File exists",
        text="The Pilot venv {what} is not a folder, or a link that leads nowhere.",
        remedy=_SYNC,
        files="bootstrap_0.*",
    ),
    Rule(
        vague=True,
        pattern=r"(?P<what>\S+)/bin/activate: No such file|Loading of virtual env failed",
        text="The Pilot venv {venv} is not a venv: it cannot be activated.",
        remedy=_SYNC,
        files="bootstrap_0.*",
    ),
    Rule(
        vague=True,
        pattern=r"radical-pilot-agent_0: (command )?not found",
        text="The Pilot venv {venv} has no RADICAL-Pilot, or its Python is gone.",
        remedy=_SYNC,
        files="agent_0.*",
    ),
    Rule(
        vague=True,
        pattern=r"No module named 'radical|bad interpreter",
        text="The Python of the Pilot venv {venv} cannot load RADICAL-Pilot.",
        remedy=_SYNC,
        files="bootstrap_0.*",
    ),
    Rule(
        pattern=r"(Unable to locate a modulefile for|[Mm]odule\(s\) are unknown:|"
        r"ERROR:\d+: Unable to locate) *['\"]?(?P<what>[^'\"\s]*)",
        text="There is no site module {what} on this host.",
        remedy="correct `modules` in the env spec, or pre_bootstrap_0 of the definition; "
        "`module avail` lists what there is",
    ),
    # --- the definition ---
    Rule(
        pattern=r"ResourceManager (?P<what>\S+) unknown",
        text="RADICAL-Pilot has no resource manager {what}.",
        remedy="set resource_manager to e.g. FORK or SLURM: " + _DEFINITION,
    ),
    Rule(
        pattern=r"no valid launch methods found|LaunchMethod (?P<what>\S+) unknown",
        text="None of the launch methods of {label} works on this host.",
        remedy="correct launch_methods: " + _DEFINITION,
    ),
    Rule(
        pattern=r"Scheduler (?P<what>\S+) unknown",
        text="RADICAL-Pilot has no scheduler {what}.",
        remedy="set agent_scheduler to CONTINUOUS: " + _DEFINITION,
    ),
    Rule(
        pattern=r"AgentExecutingComponent (?P<what>\S+) unknown",
        text="RADICAL-Pilot has no spawner {what}.",
        remedy="set agent_spawner to POPEN: " + _DEFINITION,
    ),
    Rule(
        pattern=r"SLURM_\S+ not (set|defined)|\$?SLURM_NODELIST|no host ?list|nodefile .* not",
        text="The definition of {label} says that jobs of a batch system run here, and this is "
        "none.",
        remedy="set resource_manager to FORK, or submit to the batch system: " + _DEFINITION,
        files="agent_0.*",
    ),
    Rule(
        pattern=r"KeyError: 'bridges'",
        text="The agent config that the definition of {label} names is not there.",
        remedy="correct agent_config, or put agent_NAME.json into ~/.radical/pilot/configs: "
        + _DEFINITION,
        files="agent_0.*",
    ),
    Rule(
        pattern=r"unsupported format character|not enough arguments for format string"
        r"|incomplete format|%\w format: ",
        text="There is a % in the definition of {label}, which RADICAL-Pilot cannot pass on.",
        remedy="put what needs it into a file, and name that: " + _DEFINITION,
        files="pmgr_launching.*",
    ),
    # --- access ---
    Rule(
        pattern=r"Name or service not known|Temporary failure in name resolution"
        r"|[Cc]ould not resolve hostname|gaierror|No address associated with hostname",
        text="The name of a host cannot be resolved.",
        remedy=_HOST,
    ),
    Rule(
        pattern=r"No route to host|Network is unreachable|Connection timed out",
        text="A host cannot be reached.",
        remedy=_HOST,
    ),
    Rule(
        pattern=r"Address already in use|Cannot assign requested address",
        text="A part of RADICAL-Pilot could not open its port.",
        remedy="run it again; `scalems doctor` shows interfaces and leftover processes",
    ),
    Rule(
        pattern=r"[Nn]o (psij|saga|valid)? ?launcher|could not create launcher|"
        r"no (valid )?launcher.* found|unsupported (schema|scheme|adaptor)"
        r"|(?P<url>\w+://\S*).*not supported",
        text="Nothing here can start pilots as the definition of {label} asks for.",
        remedy="correct job_manager_endpoint and filesystem_endpoint: " + _DEFINITION,
        files="pmgr_launching.*",
    ),
    Rule(
        pattern=r"(\W(?P<before>/\w[^'\s]*)\W?: )?"
        r"(Permission denied|Read-only file system|Operation not permitted)"
        r"(: \W(?P<what>/\w[^'\s]*))?",
        text="RADICAL-Pilot may not write where it has to ({before}{what}).",
        remedy="correct the rights, or set another folder: --pilot-option sandbox=FOLDER",
    ),
    Rule(
        pattern=r"(FileNotFound|NotADirectory)Error: \[Errno \d+\][^:]*: '(?P<what>/[^']*)'",
        text="RADICAL-Pilot cannot make the pilot's folder below {what}.",
        remedy="set another one: --pilot-option sandbox=FOLDER, or default_remote_workdir of the "
        "definition",
        files="pmgr_launching.*",
    ),
    # --- the Task venv ---
    Rule(
        pattern=r"ModuleNotFoundError: No module named '(?P<module>[\w.]+)'",
        explain=_missing_module,
        files="scalems.worker*",
    ),
    Rule(
        vague=True,
        pattern=r"ModuleNotFoundError: No module named '(?P<module>[\w.]+)'",
        text="The Pilot venv {venv} has no module {module}.",
        remedy=_SYNC,
        files="(agent|scalems.master|bootstrap)*",
    ),
    Rule(
        pattern=r"(?P<what>mpiexec|mpirun|srun): (command )?not found",
        text="There is no {what} on this node.",
        remedy="load the module of an MPI in the env spec (`modules`), or install one",
    ),
)


def find(lines: Iterable[tuple[str, str]], place: Place) -> Cause | None:
    """Return the root cause of a failure, if it is a known one.

    :param lines: of all logs, each with the name of its file.
    """
    rule, cause = _logged(list(lines), place)
    if rule is None or rule.vague:
        for text, remedy in surroundings.faults(place):
            return Cause(text=text, remedy=remedy, evidence=cause.evidence if cause else "")
    return cause


def _logged(
    lines: Sequence[tuple[str, str]], place: Place
) -> tuple[Rule, Cause] | tuple[None, None]:
    for rule in RULES:
        for name, line in lines:
            if rule.files and not re.match(rule.files.replace("*", ".*"), name):
                continue
            if match := rule.compiled.search(line):
                found = {key: value or "" for key, value in match.groupdict().items()}
                return rule, _cause(rule, place, found, f"{name}: {line}")
    return None, None


def _cause(rule: Rule, place: Place, found: Mapping[str, str], evidence: str) -> Cause:
    if rule.explain is not None:
        text, remedy = rule.explain(place, found)
    else:
        words = {**place.words(), **found}
        text, remedy = rule.text.format_map(words), rule.remedy.format_map(words)
    return Cause(text=text.replace(" ()", ""), remedy=remedy, evidence=evidence)
