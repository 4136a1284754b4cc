"""The command line of every job: options from dataclasses, one-line errors, exit codes."""

import contextlib
import inspect
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock

import tyro

from raygen.benchmarks.options import BenchOptions
from raygen.comparison.options import CompareOptions
from raygen.config.fields import option, read_json_object, updated
from raygen.config.job import JobOptions
from raygen.config.run import PRESETS, RunConfig
from raygen.core.errors import Interrupted, RunError, UserError
from raygen.core.output import keep_printing
from raygen.core.printable import printable
from raygen.core.signals import Signals
from raygen.core.uris import check_uri, names_host, without_keys
from raygen.data.options import PrepareOptions, ShowOptions
from raygen.inference.options import EvaluateOptions, TrainedOptions
from raygen.tensorboard.options import WatchOptions
from raygen.tuning.options import SweepOptions

if TYPE_CHECKING:
    from raygen.core.storage import Folder

EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

Options = TypeVar("Options")
Chosen = TypeVar("Chosen", bound=PrepareOptions | ShowOptions | BenchOptions)
Command = TypeVar("Command", bound="TrainCommand")
Plain = TypeVar(
    "Plain",
    bound=PrepareOptions
    | ShowOptions
    | BenchOptions
    | EvaluateOptions
    | CompareOptions
    | TrainedOptions
    | WatchOptions,
)


def run_job(main: Callable[[Sequence[str]], None]) -> int:
    """Run a job's main function and turn its outcome into an exit code.

    Returns: 0 on success, 2 for a user's mistake (one line on stderr), 1 for any other failure of
        the job, 130 after Ctrl-C or another signal that ends jobs.
    Raises: whatever else `main` raises, which is a defect; Python shows its traceback and exits
        with 1.
    """
    keep_printing()
    escape_unencodable()
    try:
        for word in sys.argv[1:]:
            # Check this first, because any message about the options may quote them.
            check_uri(word)
        with Signals(lambda: None, ""):
            main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except RunError as error:
        lines = str(error).splitlines()
        print("error: " + "\n".join(map(printable, lines)), file=sys.stderr)
        return EXIT_FAILURE
    except Interrupted as notice:
        print(notice)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted")
        return EXIT_INTERRUPTED
    return 0


def escape_unencodable() -> None:
    """Print characters that the terminal's encoding lacks as escapes such as \\u732b."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def command_line(script: str, *arguments: str) -> str:
    """A command for users to paste; it begins with `uv run` if this job was started by uv."""
    start = ["uv", "run"] if "UV" in os.environ else ["python"]
    return shlex.join([*start, script, *arguments])


def watch_command(place: "Folder") -> str:
    """A command for users to paste that shows a folder's runs in TensorBoard."""
    default = place.uri == JobOptions.storage
    return command_line("jobs/watch.py", *([] if default else ["--storage", place.uri]))


def parse(
    kind: type[Options],
    argv: Sequence[str],
    description: str,
    default: Options,
    program: str | None = None,
) -> Options:
    """Parse a command line.

    Args:
        kind: the dataclass of the options.
        description: the text at the top of `--help`.
        default: options that the command line does not name.
        program: the name of the program in `--help`; None: that of the script.
    Raises: UserError naming the option, the value and the remedy. `--help` prints and exits.
    """
    errors = io.StringIO()
    # Wide columns keep tyro from wrapping a message, which would break its words.
    columns = {} if {"-h", "--help"} & set(argv) else {"COLUMNS": "10000"}
    try:
        with contextlib.redirect_stderr(errors), mock.patch.dict(os.environ, columns):
            return tyro.cli(
                kind,
                prog=program,
                args=argv,
                description=description,
                default=default,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as exit:
        if not exit.code:
            raise
        raise UserError(_one_line(errors.getvalue())) from None


def parse_options(
    kind: type[Plain], argv: Sequence[str], description: str, program: str | None = None
) -> Plain:
    """Parse a job's options. --config overrides the defaults, and the command line overrides both.

    Raises: UserError.
    """
    default = updated(kind(), *_read_config(argv))
    # tyro appends the values of a repeatable option to its default, so the default has to be empty.
    given = given_options(argv)
    repeated = [name for name in given if isinstance(getattr(default, name, None), tuple)]
    default = updated(default, dict.fromkeys(repeated, ()), "default")
    return parse(kind, argv, description, default, program)


def split_options(kind: type, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide a command line into the options of a dataclass and all others, with their values."""
    known = {field.name for field in fields(kind)} | {"help"}
    own: list[str] = []
    rest: list[str] = []
    target = own
    for word in argv:
        if word.startswith("--"):
            name = word[2:].split("=")[0].replace("-", "_")
            target = own if name.removeprefix("no_") in known else rest
        target.append(word)
    return own, rest


def parse_choice(
    subcommands: Mapping[str, type[Chosen]], argv: Sequence[str], description: str
) -> Chosen:
    """Parse the options of a job with subcommands. Args: subcommands: options of each, by name.

    Raises: UserError.
    """
    program = os.path.basename(sys.argv[0])
    if argv and argv[0] in subcommands:
        kind = subcommands[argv[0]]
        about = f"{description} {inspect.getdoc(kind) or ''}"
        return parse_options(kind, argv[1:], about, f"{program} {argv[0]}")
    if {"-h", "--help"} & set(argv):
        print(f"usage: {program} {{{','.join(subcommands)}}} [OPTIONS]\n\n{description}\n")
        for name, kind in subcommands.items():
            print(f"  {name:12} {inspect.getdoc(kind)}")
        print(f"\n{program} {next(iter(subcommands))} --help explains the options.")
        raise SystemExit(0)
    given = f"{argv[0]}: unknown" if argv else "nothing to work on was named"
    raise UserError(f"{given}; the first word must be one of {', '.join(subcommands)}")


@dataclass(frozen=True)
class TrainCommand:
    run: RunConfig = field(default_factory=lambda: PRESETS["dcgan-celeba"])
    """The run."""
    job: JobOptions = field(default_factory=JobOptions)
    """The job."""


@dataclass(frozen=True)
class TuneCommand(TrainCommand):
    sweep: SweepOptions = field(default_factory=SweepOptions)
    """The search."""


def parse_run(
    kind: type[Command],
    argv: Sequence[str],
    description: str,
    suffix: str = "",
    sweep: SweepOptions | None = None,
    saved: Mapping[str, Any] | None = None,
) -> Command:
    """Parse the options of a job that trains.

    The preset's options are overridden by `saved`, these by --config, and these by the command
    line.

    Args:
        suffix: what follows the preset in the default name of the run.
        sweep: defaults of the search, for a sweep.
        saved: options of the run.
    Raises: UserError.
    """
    values = dict(saved or {})
    check_hosts(values, "--resume", argv)
    changes, where = _read_config(argv)
    values |= changes
    presets = [word for word in argv if word in PRESETS]
    preset = presets[0] if presets else str(values.get("preset", RunConfig.preset))
    search = {"sweep": sweep} if sweep else {}
    while True:
        run = RunConfig.from_json(values | {"preset": preset}, where)
        default = kind(run=run, job=JobOptions(run_name=preset + suffix), **search)
        command = parse(kind, argv, description, default)
        if command.run.preset == preset:
            return command
        # The first word that names a preset was the value of another option.
        preset = command.run.preset


@dataclass(frozen=True)
class _Contender:
    run: RunConfig
    """The trainings."""


def parse_contender(saved: RunConfig, argv: Sequence[str]) -> RunConfig:
    """Apply options of trainings to those of a contender. Raises: UserError."""
    run = parse(_Contender, argv, "", _Contender(saved)).run
    if run.preset != saved.preset:
        raise UserError(f"{run.preset}: contenders' presets are the suite's")
    return run


def given_options(argv: Sequence[str]) -> frozenset[str]:
    """Names of the options on a command line, such as batch_size."""
    words = (word.split("=")[0] for word in argv if word.startswith("--"))
    return frozenset(word[2:].replace("-", "_") for word in words)


def named_options(argv: Sequence[str]) -> frozenset[str]:
    """Names of the options on a command line or in its --config. Raises: UserError."""
    return given_options(argv) | _read_config(argv)[0].keys()


def _read_config(argv: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Read the options in --config's file. Returns: them, and their origin for messages.

    Raises: UserError.
    """
    for index, word in enumerate(argv):
        if word == "--config" or word.startswith("--config="):
            path = word.partition("=")[2] or (argv[index + 1] if index + 1 < len(argv) else "")
            break
    else:
        return {}, "the defaults"
    values, where = read_json_object("--config", path), f"--config {path}"
    check_hosts(values, where, argv)
    return values, where


def check_hosts(values: Mapping[str, Any], where: str, argv: Sequence[str]) -> None:
    """Check that no file, which may be a stranger's, decides where credentials are sent.

    A URI that names the machine to connect to is accepted only on the command line.

    Args: values: the options in a file; where: the file, for messages.
    Raises: UserError.
    """
    given = given_options(argv)
    for name, value in values.items():
        if isinstance(value, str) and names_host(value) and name not in given:
            uri = without_keys(value)
            raise UserError(
                f"{where}: {name} is {uri}, which names the machine that your credentials would be "
                "sent to; if you trust it, repeat it on the command line: "
                f"{option(name)} {shlex.quote(uri)}"
            )


def _one_line(box: str) -> str:
    """Extract the message in tyro's box as one line."""
    rows = [re.sub(r"^[│|]\s*|\s*[│|]$", "", row).strip() for row in box.splitlines()[1:-1]]
    message: list[str] = []
    for row in rows:
        if not row:
            break
        if set(row) <= {"─", "-"}:
            continue
        if row.startswith(("Argument helptext", "For full helptext")):
            break
        message.append(row)
    text = " ".join(message)
    number = re.match(r"Error parsing (\S+): (invalid literal|could not convert).*: '(.*)'$", text)
    if number:
        kind = "a whole number" if number[2] == "invalid literal" else "a number"
        text = f"{number[1]} {number[3]}: must be {kind}"
    return f"{text} (--help explains every option)"
