"""Jobs that are sent to a cluster of two nodes, as README.md says; all data in an object store."""

import contextlib
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Head, add_node, search_path
from ray.job_submission import JobStatus, JobSubmissionClient

from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.training import checkpoint_index
from raygen.training.run import RunFolder

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TIMEOUT = 300
"""Seconds; only for the case that something hangs."""
SMALL = "--width 0.03 --batch-size 8 --latent-size 8 --sample-count 4 --validation-count 16"


@pytest.fixture(scope="module")
def cluster(ray_head: Head) -> Iterator[Head]:
    """The session's Ray, with a second node of two CPUs."""
    with add_node(ray_head):
        yield ray_head


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it is committed or about to be, and what a user's folder has besides."""
    place = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes((ROOT / name).read_bytes())
    for name in (
        "runs/dcgan/events",
        "data/images.parquet",
        ".venv/lib",
        ".git/HEAD",
        "raygen/__pycache__/x.pyc",
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("large")
    return place


def commands() -> dict[str, str]:
    """README's commands for a cluster, by the job that they send."""
    # What uv would install is here already.
    found = re.findall(r"^uv run (ray job submit .*)$", README, re.MULTILINE)
    return {re.search(r"jobs/(\w+)\.py", line)[1]: line for line in found}  # type: ignore[index]


def environment(head: Head, **changes: str) -> dict[str, str]:
    return os.environ | {"RAY_API_SERVER_ADDRESS": head.jobs, "PATH": search_path()} | changes


def submit(head: Head, clone: Path, command: str, **changes: str) -> tuple[int, str]:
    """Run a command in the clone. Returns: its exit code and what it printed."""
    done = subprocess.run(
        command,
        shell=True,
        cwd=clone,
        env=environment(head, **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    return done.returncode, done.stdout


def wait_for(condition: Callable[[], bool], told: Callable[[], str]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.2)


def nodes_of_workers(head: Head) -> list[set[str]]:
    """The nodes of each run's workers, of all runs so far."""
    from ray.util.state import list_actors

    runs: dict[str, set[str]] = {}
    for actor in list_actors(head.address, limit=10_000, detail=True):
        if actor.class_name == "RayTrainWorker":
            runs.setdefault(actor.job_id, set()).add(str(actor.node_id))
    return list(runs.values())


@pytest.mark.slow
def test_a_job_is_made_of_the_working_directory_alone(cluster: Head, clone: Path) -> None:
    (clone / "probe.py").write_text(
        "import os, ray, raygen\n"
        "print('holds', sorted(os.listdir()))\n"
        "ray.init(log_to_driver=False)\n"
        "where = lambda: __import__('raygen').__file__\n"
        "print('imports', raygen.__file__, ray.get(ray.remote(where).remote()))\n"
    )
    code, output = submit(cluster, clone, "ray job submit --working-dir . -- python probe.py")
    assert code == 0, output
    [imports] = [line for line in output.splitlines() if line.startswith("imports ")]
    # Neither in the driver nor in a worker the one that is installed here.
    assert imports.count("working_dir_files") == 2
    [holds] = [line for line in output.splitlines() if line.startswith("holds ")]
    assert "'raygen'" in holds
    assert "'jobs'" in holds
    for name in ("runs", "data", ".venv", ".git"):
        assert f"'{name}'" not in holds


@pytest.mark.slow
def test_the_readme_s_commands_run_on_several_nodes(cluster: Head, clone: Path) -> None:
    known = commands()
    assert list(known) == ["prepare", "train", "tune", "sample"]
    storage = "s3://bucket/cluster"
    smaller = {
        "prepare": " --count 60",
        "train": f" --steps 2 {SMALL}",
        "tune": f" --trials 2 --steps 9 --confirm 0 {SMALL}",
        "sample": " -n 4",
    }
    outputs = {}
    for name, command in known.items():
        command = command.replace("s3://BUCKET", storage) + smaller[name]
        if name == "train":
            assert "--num-workers 8" in command
            command = command.replace("--num-workers 8", "--num-workers 4")
        code, outputs[name] = submit(cluster, clone, command)
        assert code == 0, outputs[name]
    assert "2 steps of 8 images on 4 CPU workers" in outputs["train"]
    assert any(len(nodes) == 2 for nodes in nodes_of_workers(cluster))
    assert "best FD (" in outputs["tune"]

    place = Folder.at(storage)
    assert {"faces-64", "runs", "samples.png"} <= set(place.names())
    run = place.join("runs", "vaegan-anime")
    assert run.read_json("summary.json")["global_step"] == 2
    assert run.join("checkpoints").names() == ["step-00000002"]
    assert any("tfevents" in name for name in run.names())
    assert "best.json" in place.join("runs", "vaegan-anime-sweep").names()
    assert place.read_bytes("samples.png").startswith(b"\x89PNG")
    # Nothing was left in the clone, or made by a job in its copy of it.
    assert not (clone / "runs/vaegan-anime").exists()


@pytest.mark.slow
def test_a_run_is_stopped_and_goes_on(cluster: Head, clone: Path) -> None:
    client = JobSubmissionClient(cluster.jobs)
    storage = "s3://bucket/stopped"
    options = f"--storage {storage} --num-workers 2 --drawn-count 60 --log-images 8 {SMALL}"
    entrypoint = f"python jobs/train.py dcgan-celeba {options} --checkpoint-images 80"
    environment = {"working_dir": str(clone)}
    job = client.submit_job(entrypoint=f"{entrypoint} --steps 100000", runtime_env=environment)
    saved = Folder.at(storage).join("dcgan-celeba", "checkpoints")
    wait_for(lambda: len(checkpoint_index.complete(saved)) >= 2, lambda: client.get_job_logs(job))
    assert client.get_job_status(job) == JobStatus.RUNNING
    client.stop_job(job)
    wait_for(lambda: client.get_job_status(job).is_terminal(), lambda: client.get_job_logs(job))
    assert client.get_job_status(job) == JobStatus.STOPPED

    # It was given the time to save where it was.
    interrupted = re.search(r"interrupted: saved at step ([\d,]+)", client.get_job_logs(job))
    assert interrupted, client.get_job_logs(job)
    before = RunFolder(saved.parent).position().global_step
    assert before == int(interrupted[1].replace(",", ""))
    again = client.submit_job(
        entrypoint=f"{entrypoint} --steps {before + 20}", runtime_env=environment
    )
    wait_for(lambda: client.get_job_status(again).is_terminal(), lambda: client.get_job_logs(again))
    logs = client.get_job_logs(again)
    assert client.get_job_status(again) == JobStatus.SUCCEEDED, logs
    resumed = re.search(r"resuming \S+ at step ([\d,]+)", logs)
    assert resumed, logs
    assert int(resumed[1].replace(",", "")) == before
    summary = Folder.at(storage).join("dcgan-celeba").read_json("summary.json")
    assert summary["global_step"] == before + 20


@pytest.mark.slow
def test_a_driver_on_any_node_knows_what_the_cluster_may_come_to_have(
    cluster: Head, ray_session: str
) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from raygen.cluster.connection import HEAD, possible_nodes
    from raygen.cluster.growth import BOOTSTRAP

    others = [n["NodeID"] for n in ray.nodes() if n["Alive"] and HEAD not in n["Resources"]]
    [other] = others
    there = NodeAffinitySchedulingStrategy(other, soft=False)
    asked: Any = ray.remote(num_cpus=0)(possible_nodes)

    def cpus() -> list[float]:
        found = ray.get(asked.options(scheduling_strategy=there).remote())
        return [node["CPU"] for node in found]

    assert cpus() == [2.0, 2.0]
    # As the launcher leaves it in the home of the head node, and on no other.
    launched = cluster.home / Path(BOOTSTRAP).name
    launched.write_text(
        "{max_workers: 3, head_node_type: head, available_node_types: "
        "{head: {resources: {CPU: 2}}, worker: {resources: {CPU: 6}, max_workers: 9}}}"
    )
    try:
        assert cpus() == [2.0, 6.0, 6.0, 6.0]
    finally:
        launched.unlink()


@pytest.mark.slow
def test_a_job_s_own_actors_are_not_lost_with_another_node(cluster: Head, ray_session: str) -> None:
    import ray
    from ray.util.state import get_actor

    from raygen.cluster.connection import own_actor
    from raygen.core.status import Status

    with contextlib.ExitStack() as stack:
        actors = [stack.enter_context(own_actor(Status)) for _ in range(6)]
        ray.get([actor.state.remote() for actor in actors])
        found = [get_actor(actor._actor_id.hex(), cluster.address) for actor in actors]
    here = ray.get_runtime_context().get_node_id()
    assert [actor.node_id for actor in found if actor] == [here] * 6


@pytest.mark.slow
def test_folders_that_another_machine_does_not_see_are_refused(
    cluster: Head, ray_session: str, tmp_path: Path
) -> None:
    from raygen.cluster.connection import check_shared

    (tmp_path / "file").write_text("shared")
    everywhere = Folder.at(tmp_path)
    check_shared({"--data": everywhere.join("file")}, {"--storage": everywhere})
    assert everywhere.names() == ["file"]
    # Each process has its own threads there, as each machine has its own disk.
    only_here = Folder.at(f"/proc/self/task/{threading.get_native_id()}")
    with pytest.raises(UserError, match=f"--data {only_here.uri}: is not the same folder on"):
        check_shared({"--data": only_here}, {"--storage": everywhere})
    assert everywhere.names() == ["file"]
    check_shared({"--data": Folder.at("s3://bucket/x")}, {"--storage": Folder.at("s3://bucket/y")})
    with pytest.raises(UserError, match="s3://nowhere/y: cannot write there"):
        check_shared({}, {"--storage": Folder.at("s3://nowhere/y")})


@pytest.mark.slow
def test_mistakes_on_a_cluster_are_told_in_one_line(cluster: Head, clone: Path) -> None:
    submitted = "ray job submit --working-dir . -- python jobs/"
    code, output = submit(cluster, clone, f"{submitted}train.py {SMALL} --drawn-count 60")
    assert code != 0
    # Ray tells the end of a failed job's output once more.
    lines = {line for line in output.splitlines() if line.startswith("error: ")}
    assert len(lines) == 1, output
    [line] = lines
    assert "runs: lies in this job's copy of the working directory, which Ray deletes" in line
    code, output = submit(cluster, clone, f"{submitted}train.py", RAY_AUTH_MODE="disabled")
    assert code != 0
    assert "token" in output
    code, output = submit(cluster, clone, f"{submitted}train.py", RAY_AUTH_TOKEN="0" * 32)
    assert code != 0
    assert "token" in output
