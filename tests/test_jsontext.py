from __future__ import annotations

import copy
import json

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from scalems.resource import jsontext

keys = st.text(max_size=6) | st.sampled_from(["a", "b", "local", '"', "#", "{", "\\", "é", "# x\n"])
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
)
values = st.recursive(
    leaves | st.sampled_from(["# no comment", "}", '"', "\n# x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(keys, values, max_size=4)
gaps = st.lists(
    st.sampled_from([" ", "\t", "\n", "\r\n", "\n# note\n", '\n  # {"x": 1},\n', "\n#\n", ""]),
    max_size=2,
).map("".join)


@st.composite
def laid_out(draw, value):
    """Draw a text of a value, with odd white space and comment lines between its tokens."""
    gap = lambda: draw(gaps)  # noqa: E731
    if isinstance(value, dict):
        members = [
            f"{gap()}{json.dumps(k, ensure_ascii=draw(st.booleans()))}{gap()}:{gap()}"
            f"{draw(laid_out(v))}{gap()}"
            for k, v in value.items()
        ]
        return "{" + ",".join(members) + gap() + "}"
    if isinstance(value, list):
        return "[" + ",".join(f"{gap()}{draw(laid_out(v))}{gap()}" for v in value) + gap() + "]"
    return json.dumps(value)


texts = objects.flatmap(lambda value: st.tuples(st.just(value), laid_out(value), gaps, gaps))


def merged(value, path, members):
    """What must come out, made the plain way."""
    value = copy.deepcopy(value)
    inside = value
    for key in path:
        inside = inside.setdefault(key, {})
    inside.update(members)
    return value


def fits(value, path):
    for key in path:
        if not isinstance(value, dict):
            return False
        if key not in value:
            return True
        value = value[key]
    return isinstance(value, dict)


def deeply(value, members):
    """What a merge must give, made the plain way."""
    if isinstance(value, dict) and isinstance(members, dict):
        return {**value, **{k: deeply(value.get(k), v) for k, v in members.items()}}
    return members


@given(texts, st.lists(keys, max_size=2), st.dictionaries(keys, values, max_size=3))
@example(({"a": {"b": 1}}, '{"a": {\n# kept\n"b": 1}}', "", ""), [], {"a": {"c": 2}})
def test_objects_are_merged_and_their_comments_kept(drawn, path, members):
    value, body, before, after = drawn
    assume(fits(value, path))
    expected = members
    for key in reversed(path):
        expected = {key: expected}
    new = jsontext.merge_members(before + body + after, path, members)
    made = jsontext.parse(new)
    assert made == (deeply(value, expected) if members else value)
    assert jsontext.merge_members(new, path, members) == new
    if all(isinstance(one, dict) for one in [*value.values(), *members.values()]) and all(
        not isinstance(inner, (list, dict)) for one in value.values() for inner in one.values()
    ):
        assert len(comments(new)) == len(comments(before + body + after))


def comments(text):
    return [line for line in text.split("\n") if line.lstrip(" \t").startswith("#")]


@given(texts, st.lists(keys, max_size=3), st.dictionaries(keys, values, max_size=3))
@example(({}, "{}", "", ""), ["a"], {"b": 1})
@example(({}, "{\n# only a note\n}", "# top\n", "\n# end"), [], {"b": 1})
@example(({"a": {}}, '{"a":{}}', "", ""), ["a", "b"], {"c": {"d": [1]}})
def test_the_result_is_the_expected_merge(drawn, path, members):
    value, body, before, after = drawn
    text = before + body + after
    assert jsontext.parse(text) == value
    assume(fits(value, path))
    new = jsontext.set_members(text, path, members)
    assert jsontext.parse(new) == (merged(value, path, members) if members else value)
    assert new.startswith(before)
    assert new.endswith(after)


@given(texts, keys, values)
def test_a_new_member_leaves_every_other_byte(drawn, key, new_value):
    value, body, before, after = drawn
    assume(key not in value)
    text = before + body + after
    new = jsontext.set_members(text, [], {key: new_value})
    start = 0
    while start < len(text) and new[start] == text[start]:
        start += 1
    end = 0
    while end < len(text) - start and new[-1 - end] == text[-1 - end]:
        end += 1
    # What was between the common beginning and end is nothing, or blanks of an empty object.
    assert text[start : len(text) - end].strip() == ""
    assert value == {} or start + end == len(text)
    assert comments(new)[: len(comments(text))] == comments(text) or set(comments(text)) <= set(
        comments(new)
    )


@given(objects, st.data())
def test_a_replaced_value_leaves_every_other_byte(value, data):
    assume(value)
    texts_of = {k: data.draw(laid_out(v)) for k, v in value.items()}
    parts = [f"{data.draw(gaps)}{json.dumps(k)}{data.draw(gaps)}:{data.draw(gaps)}" for k in value]
    tails = [data.draw(gaps) for _ in value]
    chosen = data.draw(st.sampled_from(list(value)))
    new_value = data.draw(values)

    def text_with(shown):
        members = [p + shown[k] + t for p, k, t in zip(parts, value, tails, strict=True)]
        return "# head\n{" + ",".join(members) + "}"

    new = jsontext.set_members(text_with(texts_of), [], {chosen: new_value})
    head, tail = text_with({**texts_of, chosen: "\0"}).split("\0")
    assert new.startswith(head)
    assert new.endswith(tail)
    assert json.loads(new[len(head) : len(new) - len(tail)]) == new_value


def test_a_file_that_a_person_wrote():
    text = (
        "# my machines\n"
        "{\n"
        '    "localhost": {\n'
        "        # twice what there is\n"
        '        "cores_per_node": 8,\n'
        '        "launch_methods": {"order": ["FORK"],   "FORK": {}}\n'
        "    },\n"
        "    # not finished\n"
        '    "other": {"notes": "#1"}\n'
        "}\n"
        "# end\n"
    )
    new = jsontext.set_members(text, ["localhost"], {"virtenv": "/v", "cores_per_node": 4})
    assert new == text.replace('"cores_per_node": 8', '"cores_per_node": 4').replace(
        '"FORK": {}}\n', '"FORK": {}},\n        "virtenv": "/v"\n'
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"a": 1}', ["a"]),
        ('{"a": [{}]}', ["a", "b"]),
        ("[]", ["a"]),
        ("3", []),
        ("", []),
        ("{,}", []),
    ],
)
def test_what_has_no_place_for_a_member_is_refused(text, path):
    with pytest.raises(ValueError, match=r"not an object|Expecting"):
        jsontext.set_members(text, path, {"x": 1})


def test_of_equal_keys_the_last_counts():
    new = jsontext.set_members('{"a": {"x": 1}, "a": {"x": 2}}', ["a"], {"x": 3})
    assert new == '{"a": {"x": 1}, "a": {"x": 3}}'


@given(st.text(alphabet='{}[]",:# \n\\1a'))
def test_any_text_is_parsed_or_refused(text):
    try:
        value = jsontext.parse(text)
    except json.JSONDecodeError:
        value = None
    if isinstance(value, dict):
        assert jsontext.parse(jsontext.set_members(text, [], {"k": 1})) == {**value, "k": 1}
