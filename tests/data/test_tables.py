"""CelebA's tables, and what is said of each line that is wrong."""

from pathlib import Path

import pytest

from raygen.data.tables import read_attributes, read_partition
from raygen.errors import UserError

CSV = """image_id,Smiling,Bald
000001.jpg,1,-1
"a name, quoted.jpg",-1,0

000003.jpg,1,1
"""
TXT = """3
Smiling Bald
000001.jpg  1 -1
000002.jpg -1  0
000003.jpg  1  1
"""


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_both_forms_of_the_attributes_are_read(tmp_path: Path) -> None:
    table = read_attributes(written(tmp_path / "a.csv", CSV))
    assert table.columns == ("Smiling", "Bald")
    assert table.values == {
        "000001.jpg": [1, -1],
        "a name, quoted.jpg": [-1, 0],
        "000003.jpg": [1, 1],
    }
    assert table.lines["000003.jpg"] == 5
    table = read_attributes(written(tmp_path / "a.txt", TXT))
    assert table.columns == ("Smiling", "Bald")
    assert table.values["000002.jpg"] == [-1, 0]
    assert table.lines == {"000001.jpg": 3, "000002.jpg": 4, "000003.jpg": 5}
    # As spreadsheets save it: a mark of the encoding, and carriage returns.
    marked = "\ufeff" + CSV.replace("\n", "\r\n")
    assert read_attributes(written(tmp_path / "b.csv", marked)).columns == ("Smiling", "Bald")


def test_both_forms_of_the_partition_are_read(tmp_path: Path) -> None:
    table = read_partition(written(tmp_path / "a.txt", "1.jpg 0\n2.jpg 2\n"))
    assert table.values == {"1.jpg": [0], "2.jpg": [2]}
    table = read_partition(written(tmp_path / "a.csv", "image_id,partition\n1.jpg,1\n"))
    assert table.values == {"1.jpg": [1]}


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("a.csv", "image_id,", "name,", "line 1 must be `image_id,`"),
        ("a.csv", "1,-1", "1", r"a\.csv: line 2: has 2 fields, not 3"),
        ("a.csv", "000003", "000001", r"line 5: 000001\.jpg appears a second time, after line 2"),
        ("a.csv", "-1,0", "-1,yes", "line 3: Bald is 'yes', but must be one of -1, 0, 1"),
        ("a.csv", ",1,1", ",2,1", "line 5: Smiling is '2'"),
        ("a.txt", "3\n", "4\n", "line 1 says 4 images, but 3 rows follow"),
        ("a.txt", "3\n", "", "line 1 must be the number of images"),
        ("a.txt", " -1\n", "\n", "line 3: has 2 fields, not 3"),
        ("a.txt", "000003", "000002", r"line 5: 000002\.jpg appears a second time, after line 4"),
        ("a.txt", "1  1", "1 11", "line 5: Bald is '11'"),
    ],
)
def test_each_mistake_is_named_with_its_line(
    tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    text = CSV if name.endswith("csv") else TXT
    assert old in text
    with pytest.raises(UserError, match=f"--attributes .*{message}"):
        read_attributes(written(tmp_path / name, text.replace(old, new, 1)))


def test_several_mistakes_are_told_together(tmp_path: Path) -> None:
    rows = "".join(f"{number}.jpg,{number},1\n" for number in range(3, 12))
    with pytest.raises(UserError) as caught:
        read_attributes(written(tmp_path / "a.csv", CSV + "000001.jpg,1,1\n" + rows))
    text = str(caught.value)
    assert "line 6: 000001.jpg appears a second time" in text
    assert "line 7: Smiling is '3'" in text
    assert "line 10: Smiling is '6'" in text
    assert "line 11:" not in text
    assert "and 5 more" in text


def test_a_partition_has_three_parts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--partition .*: line 2: partition is '3'"):
        read_partition(written(tmp_path / "a.txt", "1.jpg 0\n2.jpg 3\n"))
    with pytest.raises(UserError, match="--partition .*: line 1 must be `image_id,partition`"):
        read_partition(written(tmp_path / "a.csv", "1.jpg,0\n"))


def test_tables_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--attributes .*nowhere.csv: cannot be read"):
        read_attributes(str(tmp_path / "nowhere.csv"))
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="--attributes .*: cannot be read"):
        read_attributes(str(tmp_path / "binary.csv"))
    for text in ("", "\n\n"):
        with pytest.raises(UserError, match="line 1 must be"):
            read_attributes(written(tmp_path / "empty.csv", text))
