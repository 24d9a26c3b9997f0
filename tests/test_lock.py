from __future__ import annotations

import string
from pathlib import Path

import pytest
from homes import REPO
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.markers import default_environment
from packaging.specifiers import SpecifierSet

from scalems import probe
from scalems.env import lock, spec
from scalems.env.lock import Lock, Pin
from scalems.env.role import Role
from scalems.env.spec import EnvSpec
from scalems.errors import UsageError

HASH = "sha256:" + "0" * 64
HEAD = "# python: >=3.10\n# inputs: abc\n\n"


def spec_of(**fields) -> EnvSpec:
    known = {
        "name": "task",
        "path": Path("task.toml"),
        "role": Role.TASK,
        "python": ">=3.10",
        "interpreter": None,
        "dependencies": (),
        "constraints": (),
    }
    return EnvSpec(**{**known, **fields})


names = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,5})?", fullmatch=True)
versions = st.from_regex(
    r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}((a|b|rc|\.post|\.dev)[0-9]{1,2})?", fullmatch=True
)
hashes = st.lists(
    st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:".__add__),
    min_size=1,
    max_size=4,
    unique=True,
).map(lambda listed: tuple(sorted(listed)))
markers = st.sampled_from(
    ["", "python_version < '3.12'", "sys_platform == 'linux' and os_name != 'nt'", "extra == 'x'"]
)
pinned = st.dictionaries(names, st.tuples(versions, hashes, markers), max_size=6)


@given(pinned, st.sampled_from(["", "# via nothing", "    # via\n    #   a\n    #   b", "\n\n"]))
def test_what_an_engine_wrote_is_read_back(entries, between):
    body = ""
    for name, (version, listed, marker) in entries.items():
        words = [f"{name}=={version}{f' ; {marker}' if marker else ''}"]
        words += [f"    --hash={one}" for one in listed]
        body += " \\\n".join(words) + f"\n{between}\n"
    text = lock.render(spec_of(), inputs="0f", python=">=3.10", body=body)
    read = lock.parse(text, source="x")
    assert (read.inputs, str(read.python)) == ("0f", ">=3.10")
    assert {p.name: (p.version, p.hashes) for p in read.pins} == {
        name: entry[:2] for name, entry in entries.items()
    }
    chosen = read.select(probe.markers())
    assert [pin.name for pin in chosen] == sorted(pin.name for pin in chosen)
    # What is written for the installer reads back as the same pins.
    again = lock.parse(HEAD + "\n".join(pin.requirement() for pin in chosen), source="x")
    assert [(p.name, p.version, p.hashes) for p in again.pins] == [
        (p.name, p.version, p.hashes) for p in chosen
    ]


hostile_lines = st.one_of(
    st.text(alphabet=string.printable, max_size=60),
    st.text(max_size=60),
    st.sampled_from(
        [
            "a==1",
            f"a>=1 --hash={HASH}",
            f"a==1.* --hash={HASH}",
            f"a===1 --hash={HASH}",
            f"a==1,==2 --hash={HASH}",
            f"-e . --hash={HASH}",
            "--index-url https://example.org/simple",
            "--extra-index-url=https://example.org",
            "-r other.txt",
            f"a @ file:///etc/passwd --hash={HASH}",
            f"a==1 --hash={HASH} --global-option=x",
            f"a==1 ; os_name ~= 'x' --hash={HASH}",
            f"a==1 ; python_version > 'x' --hash={HASH}",
            f"a==1 ; platform_release >= '5' --hash={HASH}",
            f"a==1 ; nonsense == 'x' --hash={HASH}",
            "a==1 --hash=md5:zz",
            "\\",
            "\\\n\\\n",
            f"a==1 --hash={HASH} \\",
        ]
    ),
)


@given(st.lists(hostile_lines, max_size=5).map("\n".join))
@example(f"a==1 ; os_name ~= 'x' --hash={HASH}")
@example(f"a==1 ; platform_release >= '5' --hash={HASH}")
@example("a==1 ; " + "(" * 2000 + f" --hash={HASH}")
def test_any_text_is_a_lock_or_refused_with_its_line(text):
    known = {**probe.markers(), "platform_release": "5.15.0-generic"}
    pins, refusal = [], None
    try:
        pins = lock.parse(HEAD + text, source="FILE").select(known)
    except UsageError as error:
        refusal = error
    if refusal:
        assert refusal.cause.startswith(("FILE", "the lock's marker of a: "))
        assert refusal.remedy
    for pin in pins:
        words = pin.requirement().split()
        assert words[0] == f"{pin.name}=={pin.version}"
        assert all(word == "\\" or word.startswith("--hash=") for word in words[1:])
        assert any(word.startswith("--hash=") for word in words)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("requests==2.0", "has no --hash"),
        (f"requests>=2.0 --hash={HASH}", "does not pin one version"),
        (f"requests==2.* --hash={HASH}", "does not pin one version"),
        ("--index-url https://example.org", "is not a pinned requirement"),
        ("<<<<<<< HEAD", "is not a pinned requirement"),
    ],
)
def test_an_edited_lock_is_refused_with_file_and_line(line, what):
    text = f"{HEAD}good==1 \\\n    --hash={HASH}\n    # via x\n{line}\n"
    with pytest.raises(UsageError, match=what) as caught:
        lock.parse(text, source="task.lock.txt")
    assert caught.value.cause.startswith("task.lock.txt:7: ")
    assert "scalems env lock" in caught.value.remedy


@pytest.mark.parametrize(
    "text", ["", "a==1\n", "# python: >=3\n", "# inputs: x\n# python: three\n"]
)
def test_a_lock_without_its_header_is_refused(text):
    with pytest.raises(UsageError):
        lock.parse(text, source="x")


def test_markers_decide_what_is_installed():
    text = (
        f"{HEAD}a==1 ; python_version < '3.12' --hash={HASH}\n"
        f"a==2 ; python_version >= '3.12' --hash={HASH}\n"
        f"b==1 ; sys_platform == 'win32' --hash={HASH}\n"
    )
    read = lock.parse(text, source="x")
    there = {**default_environment(), "sys_platform": "linux"}
    for python, version in (("3.10", "1"), ("3.12", "2")):
        chosen = read.select({**there, "python_version": python})
        assert [(pin.name, pin.version) for pin in chosen] == [("a", version)]


def test_the_locks_of_the_repository_are_current_and_pin_all_that_is_asked_for():
    for path in (REPO / "envs").glob("*.toml"):
        loaded = spec.load(path)
        read = lock.load(loaded.lock_path)
        pinned_names = {pin.name for pin in read.select(probe.markers())}
        for text in lock.requirements(loaded):
            assert probe.normalize(text.partition(">")[0].partition("<")[0]) in pinned_names


def test_what_a_lock_is_made_from_has_one_digest():
    def digest(pins=(("radical-pilot", "1"), ("dill", "2")), **fields):
        return lock.inputs_digest(spec_of(**fields), dict(pins))

    plain = digest(dependencies=("a>=1", "b"))
    assert digest(dependencies=("b", "a >= 1")) == plain
    assert digest(dependencies=("b", "a>=1"), pins=(("dill", "2"), ("radical-pilot", "1"))) == plain
    assert digest(dependencies=("b", "a>=1"), interpreter="python3.12") == plain
    for other in (
        {"dependencies": ("a>=1",)},
        {"dependencies": ("a>=1", "b"), "constraints": ("c<1",)},
        {"dependencies": ("a>=1", "b"), "python": ">=3.11"},
        {"dependencies": ("a>=1", "b"), "pins": (("radical-pilot", "1"), ("dill", "3"))},
    ):
        assert digest(**other) != plain


def test_every_environment_has_what_the_far_side_needs():
    assert lock.requirements(spec_of()) == ["cloudpickle", "radical.pilot"]
    wanted = lock.requirements(spec_of(dependencies=("Radical_Pilot>1", "numpy")))
    assert wanted == ["Radical_Pilot>1", "cloudpickle", "numpy"]


@given(st.dictionaries(names, versions), st.dictionaries(names, versions))
def test_changes_tell_how_to_get_from_one_lock_to_the_other(old, new):
    def locked(versions_):
        pins = [
            Pin(name=name, version=version, marker=None, hashes=(HASH,))
            for name, version in versions_.items()
        ]
        return Lock(inputs="0f", python=SpecifierSet(), pins=tuple(pins))

    state = dict(old)
    for line in lock.changes(locked(old), locked(new)):
        sign, name, *words = line.split(" ")
        if sign == "+":
            assert name not in state
            state[name] = words[0]
        elif sign == "-":
            assert state.pop(name) == words[0]
        else:
            assert [state[name], "->"] == words[:2]
            state[name] = words[2]
    assert state == new
