"""Making users' texts, such as file names, safe to show anywhere."""

import re

_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # Control characters, which terminals obey.
    "\u2028\u2029"  # Ends of lines and paragraphs.
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # Marks that reorder the letters around them.
    "\ufeff"
    "\ud800-\udfff]"  # Bytes of a file name that are not UTF-8.
)


def printable(text: str) -> str:
    """A text on one line; characters that cannot be shown become \\n, \\x1b, \\udce9."""
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
