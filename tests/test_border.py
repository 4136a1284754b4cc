"""Files that are damaged or made by a stranger: read, or refused in one line, whatever is in them.

More examples than usual, other ones each time: `RAYGEN_BORDER_EXAMPLES=5000 pytest
tests/test_border.py`.
"""

import copy
import json
import os
from collections.abc import Iterator
from random import Random
from typing import Any

import border
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from border import BINARY, JSON, KINDS, LINES, Reader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LONG = os.environ.get("RAYGEN_BORDER_EXAMPLES")
EXAMPLES = settings(
    max_examples=int(LONG or 20),
    derandomize=not LONG,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
LONGEST_ERROR = 3_000

RAW = ("NaN", "Infinity", "-Infinity", "1e999", "1" * 400, "-0", "1" * 5_000, "[" * 60 + "]" * 60)
"""Tokens that Python's `json` reads, or nearly."""
EXTREMES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, -5, 1, 2, 1.5, 0.1, 1e308, -1e308, 1e-320),
    *(2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**15, 10**18, 10**30, -(2**63), -(10**30)),
    *("", "x", "0", "1e5", "nan", "train", "../x", "/etc/passwd", ".", "a\nb", "\0", "\ud800"),
    *("\x1b[31m", "x" * 5_000, "none", "choice(1,2)", "uniform(0,1e308)", "loguniform(1e-300,1)"),
    *("randint(0,1e300)", "100:1", "ab" * 32),
    *([], {}, [None], [[]], [{}], [1, 2], ["a", "a"], {"a": 1}, {"": None}, [0] * 1_000),
)
MARK = "\ue000{}\ue001"
"""Stands for a raw token in a text of JSON."""


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    reader = Reader()
    reader.start()
    yield reader
    reader.stop()


def paths(value: Any) -> list[tuple[Any, ...]]:
    """The places of all values inside a JSON value, and its own, ()."""
    found: list[tuple[Any, ...]] = [()]
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        found += [(name, *path) for name, inner in inside for path in paths(inner)]
    return found


@st.composite
def changed_json(draw: st.DrawFn, whole: bytes) -> bytes:
    """A valid file of JSON in which one to three things are otherwise."""
    value = json.loads(whole)
    doubled = ""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(value)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                value = copy.deepcopy(draw(st.sampled_from(EXTREMES)))
            continue
        *above, last = path
        inside = value
        for step in above:
            inside = inside[step]
        change = draw(st.sampled_from(("put", "put", "raw", "delete", "double", "add", "swap")))
        if change == "put":
            inside[last] = copy.deepcopy(draw(st.sampled_from(EXTREMES)))
        elif change == "raw":
            inside[last] = MARK.format(draw(st.integers(0, len(RAW) - 1)))
        elif change == "delete":
            del inside[last]
        elif change == "swap":
            other = draw(st.sampled_from(paths(value)[1:] or [path]))
            around = value
            for step in other[:-1]:
                around = around[step]
            inside[last] = json.loads(json.dumps(around[other[-1]]))
        elif isinstance(inside, list):
            inside.append(inside[last])
        elif change == "add":
            inside[draw(st.sampled_from(("", "x", "..", "a\nb", "format_version")))] = 1
        else:
            doubled = f"{json.dumps(last)}: 1, "
    text = json.dumps(value)
    for number, token in enumerate(RAW):
        text = text.replace(json.dumps(MARK.format(number)), token)
    if doubled:
        text = text.replace("{", "{" + doubled, 1)
    return text.encode()


@st.composite
def changed_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file that is cut, or has other bytes in a few places."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        # What describes the rest stands at the beginning or the end.
        at = draw(st.one_of(st.integers(0, 300), st.integers(-600, -1), st.integers(0, len(whole))))
        at = min(max(at if at >= 0 else len(data) + at, 0), len(data))
        change = draw(st.sampled_from(("flip", "flip", "put", "number", "cut", "insert", "remove")))
        if change == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "put":
            new = draw(st.binary(min_size=1, max_size=8))
            data[at : at + len(new)] = new
        elif change == "number":
            number = draw(st.sampled_from((0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1)))
            data[at : at + 8] = number.to_bytes(8, "little")
        elif change == "cut":
            del data[at:]
        elif change == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=20))
        elif change == "remove":
            del data[at : at + draw(st.integers(1, 20))]
    return bytes(data)


def check(found: tuple[str, str], what: object) -> None:
    outcome, text = found
    assert outcome in ("read", "refused"), (outcome, text, what)
    if outcome == "refused":
        assert text
        assert "\n" not in text, text
        assert len(text) < LONGEST_ERROR, text


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_whole_is_read(reader: Reader, kind: str) -> None:
    whole = reader.whole[KINDS[kind].file]
    for signed in (False, True):
        assert reader.read(kind, whole, signed) == ("read", "")


@pytest.mark.parametrize("kind", JSON)
@given(data=st.data())
@EXAMPLES
def test_json_with_other_values_is_read_or_refused(
    reader: Reader, kind: str, data: st.DataObject
) -> None:
    content = data.draw(changed_json(reader.whole[KINDS[kind].file]))
    check(reader.read(kind, content), content)


@pytest.mark.parametrize("kind", JSON)
def test_what_is_no_json_is_refused(reader: Reader, kind: str) -> None:
    whole = reader.whole[KINDS[kind].file]
    many = b"[" + b"[]," * 2_100_000 + b"[]]"
    for content in (
        *(b"", b"\0", b"{", b"[" * 10**6, b'{"a":' * 10**5, b"\xff\xfe{", many),
        *(whole[:-2], whole[: len(whole) // 2], whole.replace(b'"', b"'"), b"1" * 10**6),
    ):
        found = reader.read(kind, content)
        check(found, content[:100])
        # Whose claim it is, or what made a folder, does not matter then.
        assert found[0] == "refused" or kind in ("claim", "marker")


@pytest.mark.parametrize("kind", LINES)
@given(data=st.data())
@EXAMPLES
def test_lines_with_other_values_are_read_or_refused(
    reader: Reader, kind: str, data: st.DataObject
) -> None:
    lines = reader.whole[KINDS[kind].file].splitlines(keepends=True)
    number = data.draw(st.integers(0, len(lines) - 1))
    lines[number] = data.draw(changed_json(lines[number])) + b"\n"
    content = b"".join(lines)
    check(reader.read(kind, content), content)


@pytest.mark.parametrize("kind", LINES)
def test_lines_that_are_no_json_are_refused(reader: Reader, kind: str) -> None:
    whole = reader.whole[KINDS[kind].file]
    for content in (b"", b"\0", b"{", b"[" * 10**6, b'{"a":' * 10**5, b"\xff\xfe{", b"1" * 10**6):
        found = reader.read(kind, whole + content + b"\n" + whole)
        check(found, content[:100])
        assert found[0] == "refused"
    # Whoever writes it may be at it.
    assert reader.read(kind, whole[:-2]) == ("read", "")


@pytest.mark.parametrize("kind", LINES | BINARY)
@given(data=st.data())
@EXAMPLES
def test_files_with_other_bytes_are_read_or_refused(
    reader: Reader, kind: str, data: st.DataObject
) -> None:
    content = data.draw(changed_bytes(reader.whole[KINDS[kind].file]))
    check(reader.read(kind, content, data.draw(st.booleans())), content)


@given(data=st.data())
@EXAMPLES
def test_headers_of_tensors_with_other_values_are_read_or_refused(
    reader: Reader, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(("weights", "optimizers")))
    whole = reader.whole[KINDS[kind].file]
    length = int.from_bytes(whole[:8], "little")
    header = data.draw(changed_json(whole[8 : 8 + length]))
    content = len(header).to_bytes(8, "little") + header + whole[8 + length :]
    check(reader.read(kind, content, signed=True), header)


@given(data=st.data())
@EXAMPLES
def test_descriptions_of_columns_with_other_values_are_read_or_refused(
    reader: Reader, data: st.DataObject
) -> None:
    features = data.draw(changed_json(json.dumps(border.DESCRIBED).encode()))
    check(reader.read("arrow", border.arrow_bytes(features)), features)


SIX = list(range(6))
NAMES = ("image", "id", "attributes", "kind", "", "a.b", "image.bytes")
COLUMNS = (
    pa.array([b"x" * 48] * 6, pa.binary(48)),
    pa.array([b"x" * 48] * 5 + [None], pa.binary(48)),
    pa.array([b"x" * 47] * 6, pa.binary(47)),
    pa.array([b"ab"] * 6, pa.binary(2)),
    pa.array([b"\1\2"] * 6, pa.binary(2)),
    pa.array([b"x" * 48] * 6),
    pa.array([b"x" * 48] * 6, pa.large_binary()),
    pa.array(["a"] * 6),
    pa.array(["a"] * 6, pa.large_string()),
    pa.array(["a", None] * 3),
    pa.array([b"\xff\xfe"] * 6).view(pa.string()),
    pa.array(["a"] * 6).dictionary_encode(),
    pa.array(SIX),
    pa.array([float("nan")] * 6),
    pa.array([[1]] * 6),
    pa.array([{"bytes": b"x", "path": None}] * 6),
    pa.array([{"bytes": 1}] * 6),
    pa.array([{"bytes": b"x"}, None] * 3),
    pa.array([True, None] * 3),
    pa.array([-1, 0, 1] * 2, pa.int8()),
    pa.array([0, 1, 2**64 - 1] * 2, pa.uint64()),
    pa.array(SIX, pa.decimal128(30, 2)),
    pa.array(SIX, pa.timestamp("ns")),
    pa.nulls(6),
)


@pytest.mark.parametrize("seed", range(int(LONG or 20)))
def test_tables_of_other_columns_are_read_or_refused(reader: Reader, seed: int) -> None:
    random = Random(seed)
    columns = random.choices(range(len(COLUMNS)), k=random.randint(0, 5))
    length, rows = random.randint(0, 6), random.randint(1, 7)
    names = [random.choice(NAMES) for _ in columns]
    content = pa.table([COLUMNS[number] for number in columns], names).slice(0, length)
    if random.random() < 0.5:
        described = {"huggingface": json.dumps(border.DESCRIBED)}
        content = content.replace_schema_metadata(described)
    check(reader.read("arrow", border.stream_bytes(content)), content)
    compression, shared = random.choice(("none", "snappy", "zstd")), random.random() < 0.5
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(
            content, sink, row_group_size=rows, compression=compression, use_dictionary=shared
        )
    except (pa.ArrowException, KeyError, IndexError):
        # Of names or types that Parquet does not have.
        return
    check(reader.read("shard", sink.getvalue().to_pybytes(), signed=True), content)
