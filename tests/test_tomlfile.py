from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scalems import tomlfile
from scalems.env import spec
from scalems.errors import UsageError
from scalems.resource import config

SCHEMAS = [spec.SCHEMA, config.SCHEMA]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toml")


def mistakes(path: Path, schema: Path) -> list[str]:
    """Read a file that has mistakes; return them without the path."""
    with pytest.raises(UsageError) as caught:
        tomlfile.read(path, schema)
    assert caught.value.remedy
    return [line.removeprefix(f"{path}:") for line in caught.value.cause.splitlines()]


tomlish = st.one_of(
    st.text(),
    st.text(alphabet="ab=[]{}\"'.,#\\\n\t 01:-+_"),
    st.lists(
        st.sampled_from(
            [
                'role = "pilot"',
                "[a]",
                "a = 1",
                "[[a]]",
                "a.b = [",
                "]",
                '"',
                "'''",
                "# x",
                "python = 3",
            ]
        )
    ).map("\n".join),
)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda path: path.stem)
@given(data=tomlish.map(str.encode) | st.binary())
@example(data=b"a = " + b"[" * 5000 + b"]" * 5000)
@example(data=b"a = " + b"{b = " * 3000)
@example(data=b"a = " + b"1" * 5000)
@example(data=b"role = " + b"1" * 5000)
@example(data=b"a = 2020-13-45")
@example(data=b'"a\\u0000b" = 1')
@example(data=b"\xef\xbb\xbfrole = 'pilot'")
def test_any_file_is_read_or_refused(folder: Path, schema: Path, data: bytes) -> None:
    path = folder / "any.toml"
    path.write_bytes(data)
    refusal = None
    try:
        assert isinstance(tomlfile.read(path, schema), dict)
    except UsageError as error:
        refusal = error
    if refusal:
        assert str(path) in refusal.cause
        assert refusal.remedy
    assert isinstance(tomlfile.top_keys(path), list)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        tomlfile.read(tmp_path / "none.toml", spec.SCHEMA)
    with pytest.raises(UsageError, match="Is a directory"):
        tomlfile.read(tmp_path, spec.SCHEMA)
    assert tomlfile.top_keys(tmp_path / "none.toml") == []


def test_a_syntax_error_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('role = "pilot"\npython = >=3.10\n')
    with pytest.raises(UsageError, match=r"not valid TOML: .*line 2, column 10"):
        tomlfile.read(path, spec.SCHEMA)


def test_every_mistake_is_named_with_line_key_and_near_name(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        "# a comment\n"
        'role = "pilott"\n'
        "\n"
        "pyhton = 3\n"
        "python = 3.10\n"
        'interpreter = ""\n'
        "dependencies = [\n"
        '    "numpy",  # fine\n'
        "    7,\n"
        "]\n"
        "constraints = true\n"
        '"odd key" = 1\n'
    )
    lines = mistakes(path, spec.SCHEMA)
    assert [line.partition(": ")[0] for line in lines] == ["2", "4", "5", "6", "9", "11", "12"]
    text = "\n".join(lines)
    assert "did you mean 'pilot'?" in text
    assert "unknown key (did you mean 'python'?)" in text
    assert "python: must be a string, not 3.1" in text
    assert "interpreter: must be the path or the name" in text
    assert "dependencies[1]: must be a string, not 7" in text
    assert "constraints: must be a list, not true" in text
    assert '"odd key": unknown key' in text


def test_lines_in_tables_and_of_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        '[one]\nextends = "local.localhost"\n\n'
        '[two]\npilot = "p"\nextends = "nodot"\n\n'
        '[three]\ndefinition = 3\nextends = "a.b"\npilot = "p"\ntaks = []\n'
    )
    lines = mistakes(path, config.SCHEMA)
    assert [line.partition(": ")[0] for line in lines] == ["1", "6", "9", "12"]
    assert "one: missing key 'pilot'" in lines[0]
    assert "two.extends: must name an RP resource" in lines[1]
    assert "three.definition: must be a table" in lines[2]
    assert "did you mean 'tasks' or 'targets'?" in lines[3]


@given(
    good=st.lists(st.sampled_from(["", "# note", "python = '>=3.10'"]), max_size=6),
    bad=st.lists(
        st.from_regex(r"x[a-z]{1,8}", fullmatch=True), min_size=1, max_size=6, unique=True
    ),
    order=st.randoms(use_true_random=False),
)
def test_mistakes_are_found_wherever_they_are(folder, good, bad, order):
    lines = ['role = "task"', *dict.fromkeys(g for g in good if "=" in g)]
    lines += [g for g in good if "=" not in g] + [f"{key} = 1" for key in bad]
    order.shuffle(lines)
    path = folder / "shuffled.toml"
    path.write_text("\n".join(lines))
    found = [line.split(": ")[:2] for line in mistakes(path, spec.SCHEMA)]
    expected = [
        [str(number), line.partition(" ")[0]]
        for number, line in enumerate(lines, start=1)
        if line.startswith("x")
    ]
    assert found == expected


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda path: path.stem)
def test_schemas_are_valid_schemas(schema: Path) -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(json.loads(schema.read_text()))


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ((), ""),
        (("a",), "a"),
        (("a", "b", 0, "c"), "a.b[0].c"),
        (("a b", "ü"), '"a b"."\\u00fc"'),
    ],
)
def test_dotted_keys(keys: tuple[str | int, ...], text: str) -> None:
    assert tomlfile.dotted(keys) == text


@given(st.text(), st.lists(st.text()))
def test_near_names_are_known_names(name: str, known: list[str]) -> None:
    hint = tomlfile.near(name, known)
    assert hint == "" or any(repr(one) in hint for one in known)
