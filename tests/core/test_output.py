"""Jobs whose output fails, whose reader goes away, and that are told to end; as real processes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START = """
import sys, time
from raygen.core.errors import Interrupted
from raygen.cli import run_job
from raygen.core.progress import ProgressLine
from raygen.core.signals import Signals

def endless(argv):
    line = ProgressLine(log_interval=0)
    with Signals(line.close, "all is being saved") as signals:
        if "saves" in argv:
            signals.save()
        while not signals.stop.is_set():
            line.show("working " * 100)
            print("complaint", file=sys.stderr)
        line.close()
        raise Interrupted("interrupted: saved")

def short(argv):
    line = ProgressLine()
    for number in range(100):
        line.show("working " * 100)
        print("complaint", file=sys.stderr)
    line.close()
    print("done")
    with open(argv[1], "w") as file:
        file.write("done")

sys.exit(run_job(globals()[sys.argv[1]]))
"""


def shell(tmp_path: Path, command: str) -> "subprocess.CompletedProcess[str]":
    """A command of bash's, in which `job` stands for the job above."""
    (tmp_path / "job.py").write_text(START)
    return subprocess.run(
        ["bash", "-c", f'job() {{ "{sys.executable}" "{tmp_path}/job.py" "$@"; }}\n{command}'],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("work", ["endless", "endless saves"])
def test_when_its_reader_goes_away_a_job_ends_as_after_ctrl_c(tmp_path: Path, work: str) -> None:
    done = shell(
        tmp_path, f"job {work} 2>/dev/null | head -c 10; CODE=${{PIPESTATUS[0]}}; echo; echo $CODE"
    )
    assert done.stdout.splitlines() == ["working wo", "130"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    "streams",
    [">/dev/full", "2>/dev/full", ">/dev/full 2>&1", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"],
)
def test_output_that_fails_or_is_not_there_does_not_matter(tmp_path: Path, streams: str) -> None:
    written = tmp_path / "written"
    done = shell(tmp_path, f'job short "{written}" {streams}; echo "code $?" >>"{tmp_path}/code"')
    assert (tmp_path / "code").read_text() == "code 0\n"
    assert written.read_text() == "done"
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_what_a_reader_missed_of_the_end_is_no_failure(tmp_path: Path) -> None:
    written = tmp_path / "written"
    done = shell(tmp_path, f'job short "{written}" 2>&1 >/dev/null | head -n 1; echo "$?"')
    assert done.stdout.splitlines() == ["complaint", "0"]
    assert written.read_text() == "done"
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_signals_that_end_jobs_let_them_save(tmp_path: Path, name: str) -> None:
    (tmp_path / "job.py").write_text(START)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "job.py"), "endless", "saves"],
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # As at a terminal, also where the tests themselves are run with nohup.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stdout
    assert process.stdout.readline().startswith("working")
    process.send_signal(getattr(signal, name))
    lines = process.stdout.read().splitlines()
    assert "stopping: all is being saved (Ctrl-C once more quits at once)" in lines
    assert lines[-1] == "interrupted: saved"
    assert process.wait() == 130


def test_nohup_is_respected(tmp_path: Path) -> None:
    done = shell(
        tmp_path,
        f'trap "" HUP; cd "{tmp_path}"\n'
        f'"{sys.executable}" job.py endless saves >log 2>/dev/null &\n'
        "while ! grep -q working log; do sleep 0.1; done\n"
        "kill -HUP $!; BEFORE=$(stat -c %s log)\n"
        "while [ $(stat -c %s log) -lt $((BEFORE + 100000)) ]; do sleep 0.1; done\n"
        'kill -TERM $!; wait $!; echo "$?"',
    )
    assert done.stdout == "130\n", done.stderr
