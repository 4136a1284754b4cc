"""List all runs and sweeps of a storage on a page: the work of `jobs/compare.py --storage`."""

from raygen.cli import command_line
from raygen.comparison.index import Index, read_index
from raygen.comparison.index_page import counted, render_index
from raygen.comparison.options import CompareOptions
from raygen.core.progress import ProgressLine
from raygen.core.storage import Folder

PAGE = "index.html"


def index(options: CompareOptions, line: ProgressLine | None = None) -> Index:
    """Make a page that lists all runs and sweeps of a storage, to pick contenders from.

    Returns: what the page shows.
    Raises: UserError if the storage does not exist or holds nothing, or the page cannot be written.
    """
    line = line or ProgressLine()
    out = Folder.at(options.folder)
    try:
        found = read_index(
            options.storage, lambda done, total: line.show(f"reading {done:,} of {total:,}")
        )
    finally:
        line.close()
    out.check_writable()
    default = options.title == CompareOptions.title
    title = f"Runs in {options.storage}" if default else options.title
    page = render_index(found, title, command_line("jobs/compare.py"))
    out.write_bytes(PAGE, page.encode())
    told = f"{counted(len(found.runs), 'run')}, {counted(len(found.sweeps), 'sweep')}"
    line.tell(f"{told}: {out.join(PAGE).uri}")
    return found
