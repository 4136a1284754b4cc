"""deploy/Containerfile, as it is written."""

import re
from pathlib import Path

FILE = Path(__file__).parents[1] / "deploy/Containerfile"


def instructions() -> list[tuple[str, str]]:
    """The lines, as `("COPY", "jobs jobs")`."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines if line.strip()]


def every(name: str) -> list[str]:
    """What follows each instruction of a name."""
    return [rest for other, rest in instructions() if other == name]


def placed(source: str) -> str:
    """Where the image has what is copied from `source`."""
    folder = "/"
    for name, rest in instructions():
        *sources, target = rest.split()
        if name == "WORKDIR":
            folder = rest
        elif name == "COPY" and source in sources:
            return str(Path(folder, target, source if target.endswith("/") else ""))
    raise AssertionError(f"{source} is not copied")
