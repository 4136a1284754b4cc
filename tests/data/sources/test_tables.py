"""CelebA's tables, and what is said of each line that is wrong."""

import os
from pathlib import Path

import pytest

from raygen.core.errors import UserError
from raygen.data.sources.tables import read_attributes, read_partition

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
        ("a.csv", "image_id,", "Hat,", "line 1 must be `image_id,`"),
        ("a.csv", "1,-1", "1", r"a\.csv: line 2: has 2 fields, not 3"),
        ("a.csv", "000003", "000001", r"line 5: 000001\.jpg appears a second time, after line 2"),
        ("a.csv", "-1,0", "-1,perhaps", "line 3: Bald is 'perhaps', but must be 1, 0 or -1, or"),
        ("a.csv", ",1,1", ",2,1", "line 5: Smiling is '2'"),
        ("a.txt", "3\n", "4\n", "line 1 says 4 images, but 3 rows follow"),
        ("a.txt", "3\n", "", "line 1 must be .* the number of images"),
        ("a.csv", "000003.jpg", "", "line 5: names no image"),
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
        read_partition(written(tmp_path / "a.csv", "image_id,age\n1.jpg,0\n"))


def test_tables_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--attributes .*nowhere.csv: cannot be read"):
        read_attributes(str(tmp_path / "nowhere.csv"))
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="--attributes .*: cannot be read"):
        read_attributes(str(tmp_path / "binary.csv"))
    for text in ("", "\n\n"):
        with pytest.raises(UserError, match="line 1 must be"):
            read_attributes(written(tmp_path / "empty.csv", text))


@pytest.mark.parametrize(
    "text",
    [
        "image_id,Smiling,Bald\n1.jpg,1,0\n2.jpg,0,0\n3.jpg,1,1\n",
        " image_id , Smiling , Bald\n1.jpg , 1 , 0\n 2.jpg, 0, 0\n3.jpg,1,1\n",
        "\ufeffimage_id;Smiling;Bald\r\n1.jpg;1;0\r\n2.jpg;0;0\r\n3.jpg;1;1\r\n",
        "filename\tSmiling\tBald\n1.jpg\tTrue\tFalse\n2.jpg\tfalse\tFALSE\n3.jpg\ttrue\tTrue\n",
        "Image Name,Smiling,Bald\n1.jpg,yes,no\n2.jpg,No,no\n3.jpg,Yes,YES\n",
        ",file,Smiling,Bald\n0,1.jpg,1.0,0.0\n1,2.jpg,0.0,0.0\n2,3.jpg,1.0,1.0\n",
        ",Smiling,Bald\n1.jpg,1,-1\n2.jpg,-1,-1\n3.jpg,1,1\n",
        "Smiling,Bald,image_id\n1,-1,1.jpg\n-1,-1,2.jpg\n1,1,3.jpg\n",
        "image_id,Smiling,Bald,\n1.jpg,1,0,\n2.jpg,0,0,\n3.jpg,1,1,\n",
        "image_id,Smiling,Bald\n1.jpg,1,0,,\n2.jpg,0,0,,\n3.jpg,1,1,,\n",
        "image_id Smiling Bald\n1.jpg 1 0\n2.jpg 0 0\n3.jpg 1 1\n",
        "3\nimage_id Smiling Bald\n1.jpg 1 -1\n2.jpg -1 -1\n3.jpg 1 1\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_that_are_nearly_celeba_s_are_read(tmp_path: Path, text: str, encoding: str) -> None:
    # In 16 bits, the mark of the encoding is written without being asked for.
    text = text if encoding == "utf-8" else text.removeprefix("\ufeff")
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    table = read_attributes(str(tmp_path / "a.csv"))
    assert table.columns == ("Smiling", "Bald")
    assert table.values == {"1.jpg": [1, -1], "2.jpg": [-1, -1], "3.jpg": [1, 1]}
    says_no = any(form in text.replace(" ", "") for form in ("0,0", "0;0", "0.0", "2.jpg00"))
    assert table.notes == [f"{table.where}: 0 is taken for no, as there is no -1"] * says_no


def test_a_zero_says_no_only_where_nothing_else_does(tmp_path: Path) -> None:
    text = "image_id,A,B,C\n1.jpg,1,1,1\n2.jpg,0,0,\n3.jpg,1,-1,0\n4.jpg,0,no,nan\n"
    table = read_attributes(written(tmp_path / "a.csv", text))
    assert [table.values[f"{k}.jpg"] for k in range(1, 5)] == [
        [1, 1, 1],
        [-1, 0, 0],
        [1, -1, -1],
        [-1, -1, 0],
    ]


def test_other_columns_are_left_out_and_told(tmp_path: Path) -> None:
    header = "image_id,Smiling,age,partition,caption,Bald\n"
    rows = "".join(f"{k}.jpg,{k % 2},{20 + k},{k % 3},face {k},-1\n" for k in range(30))
    table = read_attributes(written(tmp_path / "a.csv", header + rows))
    assert table.columns == ("Smiling", "Bald")
    assert table.values["1.jpg"] == [1, -1]
    assert "columns left out, as they are no attributes: age, partition, caption" in table.notes[0]
    # A few cells that are not understood are mistakes of a column that is an attribute.
    with pytest.raises(UserError, match="line 9: Smiling is '7', but must be"):
        read_attributes(written(tmp_path / "a.csv", header + rows.replace("7.jpg,1", "7.jpg,7", 1)))


def test_rows_are_found_by_other_forms_of_names(tmp_path: Path) -> None:
    names = ("000001.jpg", "img/000002.jpg", "000003.png", "4", "Cafe\u0301.JPG", "x.jpg")
    text = "image_id,A\n" + "".join(f"{name},1\n" for name in names)
    table = read_attributes(written(tmp_path / "a.csv", text))
    images = ["000001.jpg", "000002.jpg", "000003.jpg", "000004.jpg", "caf\xe9.jpg"]
    rows, notes = table.match(images)
    assert rows == dict(zip(images, names[:5], strict=True))
    assert "images have other names there, as img/000002.jpg for 000002.jpg" in notes[0]
    assert "1 of 6 rows have no image, as line 7 (x.jpg)" in notes[1]


def test_a_row_belongs_to_one_image_alone(tmp_path: Path) -> None:
    table = read_attributes(written(tmp_path / "a.csv", "image_id,A\n1.jpg,1\n2.jpg,1\n"))
    # 1.png is another image, and of 2.png and 2.gif nobody knows which is meant.
    assert table.match(["1.jpg", "1.png", "2.png", "2.gif"])[0] == {"1.jpg": "1.jpg"}
    with pytest.raises(UserError, match=r"no line for 1.png. Use the table .* named as 1.jpg"):
        table.require_rows(["1.png"], "--images x")


def test_partitions_that_are_nearly_celeba_s_are_read(tmp_path: Path) -> None:
    for text in (
        "image_id,partition\n1.jpg,0\n2.jpg,2\n",
        "1.jpg,0\n2.jpg,2\n",
        "1.jpg;0\n2.jpg;2\n",
        "split,age,file name\ntrain,20,1.jpg\nTEST,30,2.jpg\n",
    ):
        table = read_partition(written(tmp_path / "a.csv", text))
        assert table.values == {"1.jpg": [0], "2.jpg": [2]}


def test_files_that_are_no_table_of_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(UserError, match="a.csv: cannot be read .a zip archive.; save the table as"):
        read_attributes(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_bytes(b"image_id,A\n1.jpg,1\ncaf\xe9.jpg,1\n")
    with pytest.raises(UserError, match="--attributes .*a.csv, line 3: cannot be read .it is no"):
        read_attributes(str(tmp_path / "a.csv"))
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match="cannot be read .a pipe, socket or device"):
        read_attributes(str(tmp_path / "pipe.csv"))
