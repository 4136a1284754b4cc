"""Users' texts, such as names of files, as they can be shown anywhere."""

import re

_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # Control characters, which terminals obey.
    "\u2028\u2029"  # Ends of lines and paragraphs.
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # They reorder the letters around them.
    "\ufeff"
    "\ud800-\udfff]"  # Bytes of a file's name that are no UTF-8.
)


def printable(text: str) -> str:
    """A text on one line, with what cannot be shown as it is written as \\n, \\x1b, \\udce9."""
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
