"""JSON files: bounded in what they may hold, and every value asked for what is expected."""

import json
from typing import Any

import pytest

from raygen.core import checked
from raygen.core.checked import Checked, parse, shown
from raygen.core.errors import ShardError, UserError


def values_of(value: Any) -> Checked:
    return parse(json.dumps(value).encode(), "file.json", ShardError, "copy it again")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "the entry 'a' appears twice"),
        (b"[" * 100_000, "more than 50 levels deep"),
        (b"[" * 60 + b"]" * 60, "more than 50 levels deep"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, "more than 50 levels deep"),
        (b"1" * 5_000, "not valid JSON"),
    ],
)
def test_what_is_no_json_or_goes_beyond_all_bounds_is_one_line(data: bytes, message: str) -> None:
    with pytest.raises(ShardError, match=message) as caught:
        parse(data, "file.json", ShardError, "copy it again")
    assert str(caught.value).startswith("file.json: ")
    assert str(caught.value).endswith("; copy it again")
    assert "\n" not in str(caught.value)


def test_files_of_too_many_values_are_refused_before_they_take_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checked, "MOST_VALUES", 10)
    assert parse(b"[1,1,1,1,1,1,1,1,1]", "file.json").value == [1] * 9
    for data in (b"[1,1,1,1,1,1,1,1,1,1,1]", b"[[],[],[],[],[],[]]", b'[{},"a,b",{},{},{},{}]'):
        with pytest.raises(UserError, match="more than 10 values"):
            parse(data, "file.json")


def test_what_fits_is_returned_as_it_is() -> None:
    found = values_of({"rows": 3, "rate": 1, "on": True, "names": ["a", "ü"], "none": None})
    assert found.entry("rows").integer(1, 3) == 3
    rate = found.entry("rate").number(0, below=2)
    assert (rate, type(rate)) == (1.0, float)
    assert found.entry("on").flag() is True
    assert found.entry("names").texts() == ("a", "ü")
    assert found.entry("names").items()[1].text("[a-zü]") == "ü"
    assert found.entry("names").items()[0].choice(["a", "b"]) == "a"
    assert found.optional("missing") is None
    assert found.entry("none").value is None
    for value in (float("nan"), float("inf"), -float("inf")):
        assert str(values_of(value).number(0, below=1, finite=False)) == str(value)


@pytest.mark.parametrize(
    ("path", "ask", "message"),
    [
        ("count", lambda v: v.integer(), "a.count is -5, but must be a whole number, 0 or more"),
        ("many", lambda v: v.integer(1, 9), "a.many is 10, but must be a whole number, 1 to 9"),
        ("many", lambda v: v.flag(), "a.many is 10, but must be true or false"),
        ("on", lambda v: v.integer(), "a.on is true, but must be a whole number"),
        ("on", lambda v: v.number(), "a.on is true, but must be a finite number"),
        ("half", lambda v: v.integer(), "a.half is 0.5, but must be a whole number"),
        ("half", lambda v: v.number(1), "a.half is 0.5, but must be a number, 1 or more"),
        ("half", lambda v: v.number(0, below=0.5), "must be a number, 0 or more and below 0.5"),
        ("half", lambda v: v.text(), "a.half is 0.5, but must be a text"),
        ("nan", lambda v: v.number(), "a.nan is NaN, but must be a finite number"),
        ("huge", lambda v: v.integer(), "a.huge is 1000000000000000"),
        ("huge", lambda v: v.number(finite=False), "but must be a number"),
        ("name", lambda v: v.number(), "a.name is 'x', but must be a finite number"),
        ("name", lambda v: v.text("[a-c]", "a letter"), "a.name is 'x', but must be a letter"),
        ("name", lambda v: v.choice(["a", "b"]), "a.name is 'x', but must be one of a, b"),
        ("name", lambda v: v.items(), "a.name is 'x', but must be a list"),
        ("names", lambda v: v.texts(), r"a.names[1] is null, but must be a text"),
        ("names", lambda v: v.entries(), "a.names is a list of 2 values, but must be an object"),
        ("names", lambda v: v.entry("b"), "a.names is a list of 2 values, but must be an object"),
        ("inner", lambda v: v.entry("b"), "a.inner.b is missing"),
        ("inner", lambda v: v.only(["b"]), "a.inner.c is unknown"),
        ("inner", lambda v: v.text(), "a.inner is an object of 1 entries, but must be a text"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(path: str, ask: Any, message: str) -> None:
    inside = {"count": -5, "many": 10, "on": True, "half": 0.5, "nan": float("nan"), "name": "x"}
    inside |= {"huge": 10**400, "names": ["x", None], "inner": {"c": 1}}
    with pytest.raises(ShardError) as caught:
        ask(values_of({"a": inside}).entry("a").entry(path))
    assert message in str(caught.value)
    assert str(caught.value).startswith("file.json: damaged (a.")
    assert str(caught.value).endswith("; copy it again")
    assert len(str(caught.value)) < 200


def test_values_are_shown_short_and_harmless() -> None:
    for value in ("x" * 10**6, "\n\x1b[31m", "\ud800", 10**4000, list(range(10**5)), {"\n": "\n"}):
        text = shown(value)
        assert len(text) < 80
        assert text.isprintable()
    with pytest.raises(UserError, match=r"file.json: damaged \('\\n\\x1b' is unknown\)"):
        values_of({"\n\x1b": 1}).only(["a"])
