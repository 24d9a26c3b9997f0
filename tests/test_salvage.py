"""Rows of a SQLite file are found without the pages that lead to them."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems.store.salvage import rows

values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
    st.integers(0, 30_000).map(bytes),  # it goes on in other pages
)


def written(folder: Path, size: int, statement: str, table: list[tuple[object, ...]]) -> bytes:
    """Return a file with a table of these rows."""
    path = folder / "file"
    opened = sqlite3.connect(path, isolation_level=None)
    opened.execute(f"PRAGMA page_size={size}")
    opened.execute("CREATE TABLE other (key INTEGER PRIMARY KEY, a, b)")
    opened.execute(statement)
    opened.execute("BEGIN")
    for row in table:
        opened.execute(f"INSERT INTO w VALUES ({', '.join('?' * len(row))})", row)
    opened.execute("COMMIT")
    opened.close()
    return path.read_bytes()


@given(st.lists(st.tuples(values, values), max_size=60), st.sampled_from([512, 4096, 65536]))
def test_all_rows_of_a_whole_file_are_found(pairs, size):
    expected = [(f"{number:05}", *row) for number, row in enumerate(pairs)]
    with tempfile.TemporaryDirectory() as folder:
        statement = "CREATE TABLE w (key TEXT PRIMARY KEY, a, b) WITHOUT ROWID"
        data = written(Path(folder), size, statement, expected)
    found = [row for row in rows(data, size) if len(row) == 3]
    assert sorted(found, key=lambda row: row[0]) == expected


@given(st.binary(max_size=3000), st.sampled_from([512, 1024]))
def test_anything_may_be_in_a_file(data, size):
    for row in rows(data, size):
        assert isinstance(row, tuple)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    statement = "CREATE TABLE w (key TEXT PRIMARY KEY, a) WITHOUT ROWID"
    table = [(f"{number:05}", number) for number in range(500)]
    return written(tmp_path_factory.mktemp("whole"), 1024, statement, table)


@given(st.data())
def test_a_bad_byte_costs_rows_of_its_page_only(whole, draw):
    data = bytearray(whole)
    data[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    known = {f"{number:05}" for number in range(500)}
    found = {row[0] for row in rows(bytes(data), 1024) if len(row) == 2 and row[0] in known}
    assert len(found) > 400
