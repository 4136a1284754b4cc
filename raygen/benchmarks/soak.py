"""Trains for a long time on machines that are taken away, and counts what that costs.

Several nodes of a Ray run on this machine. Every few minutes a worker is killed or stopped, or a
node is taken away and comes back later, or the storage stops answering. At the end every image has
to be counted once.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.util.state import list_actors

from raygen.benchmarks.figures import Figure, local_ray, say
from raygen.benchmarks.options import SoakOptions
from raygen.core.errors import RunError
from raygen.core.history import read_history
from raygen.core.progress import duration
from raygen.core.storage import Folder
from raygen.training import checkpoint_index
from raygen.training.run import CHECKPOINTS
from raygen.training.summary import Summary, read_summary

PRESET, RUN = "dcgan-celeba", "soak"
NODES = 2
"""Nodes beside the first, each of one CPU."""
AWAY_SECONDS = 60.0
"""How long a node or the storage is away, in seconds."""
STALL_SECONDS = 60
END_SECONDS = 300
"""Time for the run to be saved at the end, in seconds."""
BUFFER_BYTES = 2**16


def soak(options: SoakOptions, place: Path, jobs: Path) -> list[Figure]:
    """Train for so long. Args: place: a folder for the run; jobs: the scripts' folder."""
    chance = random.Random(options.seed)
    done: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        storage, gate = str(place), None
        if options.run_storage:
            gate = Gate(*_endpoint(options.run_storage))
            stack.callback(gate.close)
            storage = gate.through(options.run_storage)
        stack.enter_context(local_ray(num_cpus=1))
        nodes = [Node() for _ in range(NODES)]
        for node in nodes:
            stack.callback(node.end)
        run = stack.enter_context(_training(options, storage, place, jobs, "--restart"))
        folder = Folder.at(storage).join(RUN)
        while not checkpoint_index.latest(folder.join(CHECKPOINTS)):
            run.wait_until(time.monotonic() + 1)
        ends_at = time.monotonic() + 60 * options.minutes
        while time.monotonic() < ends_at:
            pause = options.every * chance.uniform(0.5, 1.5)
            run.wait_until(min(time.monotonic() + pause, ends_at))
            deeds: list[tuple[str, Callable[[], None]]] = [
                ("workers killed", lambda: _signal_worker(chance, signal.SIGKILL)),
                ("workers stopped", lambda: _signal_worker(chance, signal.SIGSTOP)),
                ("nodes taken away", chance.choice(nodes).leave),
            ]
            if gate:
                deeds.append(("outages of the storage", gate.leave))
            name, deed = chance.choice(deeds)
            if ends_at - time.monotonic() > AWAY_SECONDS:
                deed()
                done[name] += 1
                say(f"{duration(ends_at - time.monotonic())} left: {name}")
        run.stop()
        summary = read_summary(folder)
        more = ["--steps", str(summary.global_step + 10)]
        with _training(options, storage, place, jobs, *more) as last:
            last.finish()
        return _figures(options, folder, summary, read_summary(folder), done)


def _figures(
    options: SoakOptions, folder: Folder, stopped: Summary, ended: Summary, done: Counter[str]
) -> list[Figure]:
    steps, batch = stopped.global_step + 10, options.batch_size
    logged = [m.images_seen for m in read_history(folder) if "loss/generator" in m.values]
    counted = sorted(set(logged)) == [batch * (k + 1) for k in range(steps)]
    usage, disturbed = ended.usage, sum(done.values())
    busy = stopped.images_seen / max(stopped.images_per_second, 1e-9)
    said = ", ".join(f"{count} {name}" for name, count in sorted(done.items()))
    return [
        Figure(
            "steps of the run, each logged once : steps asked for",
            len(logged) / steps if counted and ended.global_step == steps else 0.0,
            1.0,
            True,
            f"{ended.global_step:,} steps, {said or 'undisturbed'}",
        ),
        Figure(
            "images repeated : images seen",
            usage.images_lost / max(ended.images_seen, 1),
            None,
            False,
            f"{usage.images_lost:,} : {ended.images_seen:,}",
        ),
        Figure(
            "restarts : disturbances",
            usage.restarts / max(disturbed, 1),
            None,
            False,
            f"{usage.restarts} : {disturbed}",
        ),
        Figure(
            "time to train all images at the last speed : time of the run",
            min(1.0, busy / (60 * options.minutes)),
            None,
            True,
            f"{duration(busy)} : {duration(60 * options.minutes)}",
        ),
    ]


class Training:
    """A training in a process of its own."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process, self._log = process, log

    def wait_until(self, time_: float) -> None:
        """Raises: RunError if the training ends before that."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, time_ - time.monotonic()))
            self._fail()

    def stop(self) -> None:
        """Have the training save and end. Raises: RunError."""
        self._process.send_signal(signal.SIGINT)
        if self._process.wait(END_SECONDS) != 130:
            self._fail()

    def finish(self) -> None:
        """Wait for its end. Raises: RunError if it fails."""
        if self._process.wait(END_SECONDS):
            self._fail()

    def _fail(self) -> None:
        end = self._log.read_text(errors="replace")[-2_000:]
        raise RunError(f"the training ended with {self._process.returncode}: {end}")


@contextmanager
def _training(
    options: SoakOptions, storage: str, place: Path, jobs: Path, *words: str
) -> Iterator[Training]:
    command = [sys.executable, str(jobs / "train.py"), PRESET, "--storage", storage]
    command += ["--run-name", RUN, "--num-workers", f"1:{NODES + 1}", "--steps", str(10**8)]
    command += ["--batch-size", str(options.batch_size), "--width", str(options.width)]
    # Each step is logged, so that the history counts them.
    command += ["--log-images", str(options.batch_size), "--drawn-count", "400"]
    command += ["--checkpoint-images", str(options.checkpoint_images), "--keep", "2"]
    command += ["--stall-timeout", f"{STALL_SECONDS}s", "--max-failures", "20", *words]
    log = place / "soak.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=_environment())
    try:
        yield Training(process, log)
    finally:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    return os.environ | {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        # A private Ray takes this machine's address to be 127.0.0.1, and so must who joins it.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


class Node:
    """A node of the Ray that this process is connected to, on this machine."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._timer: threading.Timer | None = None
        self._is_over = False
        self._start()

    def _start(self) -> None:
        if self._is_over:
            return
        environment = _environment()
        program = shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
        command = [program, "start", "--block", "--num-cpus=1", "--node-ip-address=127.0.0.1"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            agent = f"--dashboard-agent-listen-port={free.getsockname()[1]}"
        command += [agent, f"--address={environment['RAY_ADDRESS']}"]
        nowhere = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, env=environment, stdout=nowhere, stderr=nowhere, start_new_session=True
        )

    def leave(self) -> None:
        """Kill all of the node's processes at once; it is back a minute later."""
        self._kill()
        self._timer = threading.Timer(AWAY_SECONDS, self._start)
        self._timer.start()

    def end(self) -> None:
        self._is_over = True
        if self._timer:
            self._timer.cancel()
        self._kill()

    def _kill(self) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _signal_worker(chance: random.Random, number: signal.Signals) -> None:
    """Send a signal to one of the run's workers, if there are any just now."""
    address = ray.get_runtime_context().gcs_address
    actors = list_actors(address, filters=[("state", "=", "ALIVE")])
    pids = [a.pid for a in actors if a.class_name == "RayTrainWorker" and a.pid]
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(pids), number)


def _endpoint(uri: str) -> tuple[str, int]:
    found = re.search(r"endpoint_override=([^&:]+):(\d+)", uri)
    if not found:
        raise RunError(f"--run-storage {uri}: names no endpoint, as ?endpoint_override=HOST:PORT")
    return found[1], int(found[2])


class Gate:
    """Passes connections on to an object store, or closes them while the store is to be away."""

    def __init__(self, host: str, port: int) -> None:
        self._store = host, port
        self._is_away = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._serve, daemon=True).start()

    def through(self, uri: str) -> str:
        """The URI that leads to the same place through the gate."""
        port = self._server.getsockname()[1]
        return re.sub(r"endpoint_override=[^&]+", f"endpoint_override=127.0.0.1:{port}", uri)

    def leave(self) -> None:
        """Take the store away for a minute; what is being answered is cut off."""
        self._is_away = True
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        threading.Timer(AWAY_SECONDS, self._come_back).start()

    def _come_back(self) -> None:
        self._is_away = False

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._server.accept()
                if self._is_away:
                    caller.close()
                    continue
                try:
                    store = socket.create_connection(self._store)
                except OSError:
                    caller.close()
                    continue
                for one, other in ((caller, store), (store, caller)):
                    self._open.add(one)
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(BUFFER_BYTES):
                other.sendall(data)
        self._open.discard(one)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)
