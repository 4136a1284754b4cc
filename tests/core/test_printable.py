"""Users' texts on one line, whatever is in them."""

import os

import pytest

from raygen.core.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a plain name (1).jpg", "a plain name (1).jpg"),
        ("größe 顔 \u200d👩\u200d🚀.png", "größe 顔 \u200d👩\u200d🚀.png"),
        ("two\nlines\r\n", "two\\nlines\\r\\n"),
        ("\x1b[31mred\x07\x9b", "\\x1b[31mred\\x07\\x9b"),
        ("evil\u202egpj.exe", "evil\\u202egpj.exe"),
        ("line\u2028end", "line\\u2028end"),
        (os.fsdecode(b"caf\xe9.jpg"), "caf\\udce9.jpg"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_what_cannot_be_shown_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    shown.encode()
