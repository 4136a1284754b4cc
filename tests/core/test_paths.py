"""Names that others chose never become paths outside their folder."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygen.core.errors import UserError
from raygen.core.paths import LeavesFolder, inside
from raygen.core.storage import Folder

NAMES = st.lists(
    st.one_of(
        st.sampled_from(["..", ".", "", "a", "~", "C:", "\\", "..\\", "\0"]),
        st.text(st.characters()),
    ),
    min_size=1,
    max_size=6,
).map("/".join)


@given(NAMES)
def test_whatever_a_name_is_its_path_lies_in_the_folder(name: str) -> None:
    try:
        path = inside("/folder/of/copies", name)
    except LeavesFolder:
        return
    assert os.path.normpath(path) == path
    assert path.startswith("/folder/of/copies/")
    assert not {"\\", "\0"} & set(path)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "a/../../b", "a/..", "/a", "//a", "a//b", "a/", "a/./b", "a\0b"]
    + ["..\\a", "a\\b", "C:a", "C:\\a", "\\\\host\\share", "n" * 256, "\ud800"],
)
def test_names_of_no_file_in_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(LeavesFolder):
        inside(str(tmp_path), name)


def test_plain_names_are_kept(tmp_path: Path) -> None:
    for name in ("a", "a/b/c", "a..b", "...", "größe 1", "~", ".hidden", "12:30"):
        assert inside(str(tmp_path), name) == str(tmp_path.resolve() / name)


def test_no_link_below_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    # The folder itself may be a link, as to a larger disk.
    assert inside(str(tmp_path / "folder"), "a/b") == str(tmp_path.resolve() / "real/a/b")
    (tmp_path / "real/a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "real/file").symlink_to(tmp_path / "elsewhere/file")
    for name in ("a", "a/b", "file"):
        with pytest.raises(LeavesFolder, match="symbolic link"):
            inside(str(tmp_path / "folder"), name)


def test_a_folder_reads_and_writes_nothing_outside_itself(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = Folder.at(tmp_path / "folder")
    for name in ("../secret", str(tmp_path / "secret"), "a/../../secret", "a\0"):
        for use in (folder.read_bytes, folder.exists, folder.delete_file, folder.path_of):
            with pytest.raises(UserError, match="leads out of this folder"):
                use(name)
        with pytest.raises(UserError, match="leads out of this folder"):
            folder.write_bytes(name, b"overwritten")
        with pytest.raises(UserError, match="leads out of this folder"):
            folder.join("sub", name)
    assert (tmp_path / "secret").read_text() == "secret"
