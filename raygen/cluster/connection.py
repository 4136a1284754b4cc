"""Connecting to Ray, on a cluster or on this machine, and asking for its resources."""

import contextlib
import logging
import os
import shlex
import signal
import socket
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import ray
import ray.data  # Importing it sets its loggers' levels, which must happen before ours.
from ray._common import utils
from ray._private import ray_constants, services
from ray.exceptions import AuthenticationError, GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raygen.cluster import growth, local_ray, private_ray
from raygen.cluster.head import watched
from raygen.cluster.terminal import quiet_loggers, silent_stderr, without_raylets
from raygen.core.errors import UserError
from raygen.core.signals import ENDING
from raygen.core.storage import Folder

Nodes = Sequence[Mapping[str, float]]
"""Resources of each node by name: CPU, GPU, memory in bytes."""
HEAD = "node:__internal_head__"
"""Name of a resource that only the head node has."""
# If Ray was imported before raygen, the environment that `import raygen` sets came too late.
if os.environ.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV") == "0":
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False

CONNECT_SECONDS = 10
PROBE_SECONDS = 5
"""Time for a node to accept a connection, in seconds."""
MOST_PROBES = 64
"""Number of nodes that are asked at once."""
ANSWER_SECONDS = 30
"""Time without an answer, in seconds, after which to check whether Ray, or a node, is alive."""


@contextmanager
def connected(verbose: bool = False, address: str | None = None, **options: Any) -> Iterator[None]:
    """Connect to Ray for the duration of a job.

    Uses the cluster that `RAY_ADDRESS` names (Ray sets it for submitted jobs) or that runs on this
    machine; starts a private one if there is none. A Ray that this process is already connected to
    is used and left running.

    Args:
        verbose: let Ray's own messages and the workers' output through.
        address: overrides `RAY_ADDRESS`; `local` always starts a private Ray.
        options: further arguments of `ray.init`.
    Raises: UserError if the cluster cannot be reached, or none can be started.
    """
    if ray.is_initialized():
        yield
        return
    running = running_address(address)
    level = logging.INFO if verbose else logging.ERROR
    # The terminal would otherwise repeat each warning once per worker.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not verbose:
        quiet_loggers()
    if token := private_ray.readable_token():
        print(
            f"warning: other users of this machine can read the cluster's token in {token}, and "
            f"with it run anything on the cluster: chmod 600 {shlex.quote(token)}",
            file=sys.stderr,
        )
    options |= {"logging_level": level, "log_to_driver": verbose}
    with contextlib.ExitStack() as stack:
        if not verbose:
            stack.enter_context(without_raylets())
        with _kept_signals(), contextlib.nullcontext() if verbose else silent_stderr():
            if running:
                _connect(running, options)
            else:
                stack.enter_context(local_ray.prepared())
                _start_local(options | stack.enter_context(private_ray.closed()))
        stack.callback(ray.shutdown)
        head = f"the cluster's head, {running}," if running else "this job's own Ray"
        stack.enter_context(watched(is_alive, head, lambda text: print(text, file=sys.stderr)))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = verbose
        context.print_on_execution_start = verbose
        yield


def running_address(address: str | None = None) -> str:
    """The address of the Ray to connect to; "" if one has to be started.

    Args: address: overrides `RAY_ADDRESS`.
    Raises: UserError if the address requires a running Ray, but there is none that answers.
    """
    address = os.environ.get("RAY_ADDRESS", "") if address is None else address
    check_address(address)
    if address not in ("", "auto"):
        return "" if address == "local" else address
    # Every user may write to the file in which `ray start` records its address.
    if not address and not private_ray.is_trusted(utils.get_ray_address_file(None)):
        return ""
    wish: Any = address or None
    try:
        found = services.canonicalize_bootstrap_address(wish)
    except ConnectionError as error:
        raise UserError(
            f"RAY_ADDRESS {address}: no Ray runs on this machine; start one with `ray start "
            "--head`, or unset RAY_ADDRESS to have this job start its own"
        ) from error
    if found and not address:
        # Ray's record of the last `ray start` may be stale.
        try:
            check_address(found)
        except UserError:
            return ""
    return found or ""


def _connect(address: str, options: dict[str, Any]) -> None:
    """Connect to a cluster. Raises: UserError if it rejects this job."""
    try:
        ray.init(address, **options)
    except (ConnectionError, AuthenticationError) as error:
        raise UserError(
            f"RAY_ADDRESS {address}: what answers there is no Ray cluster that lets this job in; "
            "check the address, and the cluster's token (RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, "
            "which `ray get-auth-token` prints on its head node)"
        ) from error


def _start_local(options: dict[str, Any]) -> None:
    """Start a private Ray on this machine. Raises: UserError if that fails twice."""
    for is_last in (False, True):
        try:
            with local_ray.patient_start():
                ray.init("local", **options)
            return
        except Exception as error:
            ray.shutdown()
            if is_last:
                raise local_ray.cannot_start(error) from error


@contextmanager
def _kept_signals() -> Iterator[None]:
    """Restore the job's signal handlers, which Ray replaces by its own."""
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        if handler not in (None, signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler):
            signal.signal(number, handler)


def check_address(address: str) -> None:
    """Check quickly that something answers at an address, because Ray itself tries for minutes.

    Args: address: as in `RAY_ADDRESS`.
    Raises: UserError.
    """
    kind, mark, _ = address.partition("://")
    if mark:
        what = "Ray's client" if kind == "ray" else "the Jobs API"
        raise UserError(
            f"RAY_ADDRESS {address}: is an address of {what}, but a job needs the cluster's own, "
            "as 10.0.0.1:6379; or submit it: ray job submit --address http://HEAD:8265 "
            "--working-dir . -- python jobs/..."
        )
    if address in ("", "auto", "local"):
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
            pass
    except (OSError, ValueError) as error:
        raise UserError(
            f"RAY_ADDRESS {address}: no Ray cluster answers there ({error}); start it with "
            "`ray start --head`, or unset RAY_ADDRESS to run on this machine alone"
        ) from error


@contextmanager
def own_actor(kind: type) -> Iterator[Any]:
    """Create an actor on this job's own node, so that it does not die with another node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(kind)
    actor = remote.options(num_cpus=0, scheduling_strategy=here).remote()
    try:
        yield actor
    finally:
        with contextlib.suppress(RayError):
            ray.kill(actor)


def check_shared(read: Mapping[str, Folder], written: Mapping[str, Folder]) -> None:
    """Check that every machine of the cluster sees the local folders that a job uses.

    Otherwise workers there would find no images, or leave checkpoints where nobody looks.

    Args:
        read: existing files or folders, by the option that names them.
        written: folders to write to, in which a file is created for a moment.
    Raises: UserError if a machine does not see one, or a folder cannot be written.
    """
    for place in written.values():
        place.check_writable()
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    if not others:
        return
    probe = f".probe-{uuid.uuid4().hex}"
    places = {option: (place, place.path) for option, place in read.items() if place.is_local}
    local = {option: place for option, place in written.items() if place.is_local}
    places |= {option: (place, place.path_of(probe)) for option, place in local.items()}
    if not places:
        return
    try:
        for place in local.values():
            place.write_bytes(probe, b"")
        expected = {option: _size_of(path) for option, (_, path) in places.items()}
        look = ray.remote(num_cpus=0)(_sizes_of)
        paths = {option: path for option, (_, path) in places.items()}
        answers = [
            look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(paths)
            for node in others
        ]
        try:
            found = _answers(answers, {node["NodeID"] for node in others})
        except RayError as error:
            raise UserError(
                "a machine of the cluster does not answer, or was taken away just now; run the "
                "same command again"
            ) from error
        for node, answer in zip(others, found, strict=True):
            for option, size in answer.items():
                if size != expected[option]:
                    raise UserError(
                        f"{option} {places[option][0].uri}: is not the same folder on "
                        f"{node['NodeManagerAddress']}, another machine of the cluster; use a "
                        "URI, as s3://bucket/folder, or a folder that all its machines share"
                    )
    finally:
        for place in local.values():
            if place.exists(probe):
                place.delete_file(probe)


def _answers(asked: Sequence[Any], nodes: set[str]) -> list[Any]:
    """Wait for the nodes' answers, however slow. Raises: RayError if a node is gone."""
    while True:
        try:
            return list(ray.get(asked, timeout=ANSWER_SECONDS))
        except GetTimeoutError:
            if not nodes <= {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
                raise


def answer(method: Any, *arguments: Any) -> Any:
    """Call an actor's method and wait for its result, however slow Ray is.

    Raises: RayError if the actor, or Ray, is gone.
    """
    asked = method.remote(*arguments)
    while True:
        try:
            return ray.get(asked, timeout=ANSWER_SECONDS)
        except GetTimeoutError:
            if not is_alive():
                raise


def is_alive() -> bool:
    """Whether the Ray that this process is connected to is still running."""
    try:
        check_address(ray.get_runtime_context().gcs_address)
    except UserError:
        return False
    return True


def _sizes_of(paths: Mapping[str, str]) -> dict[str, int | None]:
    return {option: _size_of(path) for option, path in paths.items()}


def _size_of(path: str) -> int | None:
    """Size of a file in bytes, 0 for a folder; None if nothing exists there."""
    if os.path.isdir(path):
        return 0
    return os.path.getsize(path) if os.path.exists(path) else None


def total(nodes: Nodes, name: str) -> float:
    """Sum of a resource over all nodes."""
    return sum(node.get(name, 0) for node in nodes)


def nodes() -> list[dict[str, float]]:
    """Resources of each live node, by name."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def lasting_nodes() -> list[dict[str, float]]:
    """Resources of each node that answers at this moment and is not about to be taken away.

    Ray itself learns some 15 seconds late that a machine is gone.
    """
    going = ray._private.state.state.get_draining_nodes()
    known = [n for n in ray.nodes() if n["Alive"] and n["NodeID"] not in going]
    with ThreadPoolExecutor(max(1, min(len(known), MOST_PROBES))) as pool:
        answers = list(pool.map(_accepts, known))
    return [node["Resources"] for node, answer in zip(known, answers, strict=True) if answer]


def _accepts(node: Mapping[str, Any]) -> bool:
    """Whether a node's raylet, which every node of the cluster can reach, accepts connections."""
    place = node["NodeManagerAddress"], node["NodeManagerPort"]
    try:
        with socket.create_connection(place, PROBE_SECONDS):
            return True
    except OSError:
        return False


def smallest_store() -> float:
    """Size of the smallest object store of the cluster's nodes, in bytes."""
    return min((node.get("object_store_memory", 0) for node in nodes()), default=0)


def waits_for_others() -> bool:
    """Whether workers of any job are waiting for resources that others hold."""
    groups = ray.util.placement_group_table().values()
    return any(group["state"] in ("PENDING", "RESCHEDULING") for group in groups)


def free(name: str) -> float:
    """Amount of a resource that is not reserved."""
    return float(ray.available_resources().get(name, 0))


def possible_nodes(stated: Nodes = ()) -> list[Mapping[str, float]]:
    """Resources of each node that exists or that an autoscaler may add.

    This is known if Ray's cluster launcher or KubeRay started the cluster, because its head node
    can then read its configuration. Any other cluster is assumed to stay as it is.

    Args: stated: the nodes besides the head that the user says may be there.
    """
    heads = [node for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]]
    added = stated or (_added_by(heads[0]["NodeID"]) if heads else ())
    # Machines added by hand may exceed what the configuration allows for.
    return max(nodes(), [*(head["Resources"] for head in heads), *added], key=growth.size_of)


def _added_by(head: str) -> Nodes:
    """The nodes that a head node's autoscaler may add. Args: head: its ID."""
    if ray.get_runtime_context().get_node_id() == head:
        return growth.may_be_added()
    ask = ray.remote(num_cpus=0, resources={HEAD: 0.001})(growth.may_be_added)
    return cast(Nodes, ray.get(ask.remote()))


class Poll:
    """Polls an actor without waiting for its answers."""

    def __init__(self) -> None:
        self._answer: Any = None

    def ask(self, method: Any, *arguments: Any) -> Any:
        """Send the next question if the last one has been answered.

        Returns: the answer to the last question; None while there is none.
        """
        answer = None
        if self._answer is not None:
            ready, _ = ray.wait([self._answer], timeout=0)
            if not ready:
                return None
            answer = ray.get(self._answer)
        self._answer = method.remote(*arguments)
        return answer
