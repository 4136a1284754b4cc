"""jobs/tune.py, run for real on the session's Ray: to its end, killed and resumed, and broken."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import fails, run_script, write_dataset
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raygen.cli import TrainCommand, parse_run
from raygen.config.run import RunConfig
from raygen.core.history import last_values, read_history
from raygen.core.storage import Folder
from raygen.evaluation.objective import Objective
from raygen.training.summary import read_summary
from raygen.tuning.records import SweepFolder, best_trial
from raygen.tuning.sweep import DIED

ROOT = Path(__file__).parents[2]
STEPS = 18
BATCH = 8
SMALL = (
    *("dcgan-celeba", "--width", "0.03", "--batch-size", BATCH, "--steps", STEPS),
    *("--log-images", BATCH, "--validation-count", "40", "--sample-count", "4", "--confirm", "0"),
)
FD_HERE = "quality/fd_random-vgg"
TIMEOUT = 240
"""Seconds; only for the case that something hangs."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", (64, 64), (40,), size=32)
    return tmp_path


def tune(place: Path, *arguments: object) -> int:
    options = ("--data", place / "data", "--storage", place, "--run-name", "sweep")
    return run_script("tune", *map(str, (*SMALL, *options, *arguments)))


def record(place: Path, number: int) -> dict[str, Any]:
    text = (place / f"sweep/trials/{number:03d}/trial.json").read_text()
    return dict(json.loads(text))


def records(place: Path) -> list[dict[str, Any]]:
    return [record(place, int(file.name)) for file in sorted((place / "sweep/trials").iterdir())]


def logged_steps(place: Path, number: int) -> list[int]:
    """The steps that a trial logged, those of all its sessions."""
    events = EventAccumulator(str(place / f"sweep/trials/{number:03d}"), purge_orphaned_data=False)
    events.Reload()
    # With some schedules a network takes no part in some steps.
    steps = [
        [event.step // BATCH for event in events.Scalars(f"loss/{network}")]
        for network in ("discriminator", "generator")
    ]
    return sorted(steps[0] + [step for step in steps[1] if step not in steps[0]])


@pytest.mark.slow
def test_a_sweep_finds_the_best_and_train_runs_it(
    ray_session: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = "lr_d=choice(0.001,1e-9)"
    assert tune(place, "--trials", "5", "--set", bad, "--set", "label_smoothing=fixed") == 0
    output = capsys.readouterr().out
    assert f"5 trials of at most {STEPS * BATCH} images, 2 trials at once on CPUs" in output
    assert "ray::" not in output
    assert "Traceback" not in output
    assert "generator/discriminator updates" in output
    trials = records(place)
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3, 4]
    assert {trial["status"] for trial in trials} <= {"finished", "stopped"}
    assert trials[0]["values"] == {
        "lr_g": 1e-4,
        "lr_d": 1e-3,
        "schedule": "1:1",
        "beta1": 0.5,
    }
    assert trials[0]["status"] == "finished"
    for trial in trials:
        seen = [report["images_seen"] for report in trial["reports"]]
        assert seen == [16 * (k + 1) for k in range(len(seen))]
        assert (seen[-1] == 144) == (trial["status"] == "finished")
        assert logged_steps(place, trial["number"]) == list(range(1, seen[-1] // BATCH + 1))
        last = trial["reports"][-1]
        assert last["objective"] == last["metrics"][FD_HERE] > 0
        if trial["status"] == "stopped":
            assert f"trial {trial['number']} stopped" in output
            assert trial["reason"] in output
        folder = place / f"sweep/trials/{trial['number']:03d}"
        summary = read_summary(Folder.at(folder))
        assert (summary.kind, summary.status) == ("trial", trial["status"])
        assert (summary.images_seen, summary.metrics) == (seen[-1], last["metrics"])
        run = RunConfig.from_json(json.loads((folder / "config.json").read_text()), "test")
        assert summary.updates == run.updates(summary.global_step, STEPS)
        assert summary.best
        assert summary.best.score <= last["objective"]
        assert last_values(read_history(Folder.at(folder))).items() >= last["metrics"].items()
        pictures = folder / "samples"
        assert (pictures / f"samples-{seen[-1]:09d}.png").exists()

    chosen = best_trial(SweepFolder(Folder.at(place / "sweep")).read_trials(), Objective(FD_HERE))
    assert chosen
    best = record(place, chosen.number)
    assert best["status"] == "finished"
    assert re.search(rf"; best FD \(random-vgg\) .*trial {best['number']}\b", output, re.MULTILINE)
    with (place / "sweep/trials.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 5
    options = json.loads((place / "sweep/best.json").read_text())
    assert {name: options[name] for name in best["values"]} == best["values"]
    assert not [name for name in os.listdir(place / "sweep") if name.startswith(".ray")]

    config = ("--config", place / "sweep/best.json", "--run-name", "tuned", "--storage", place)
    assert run_script("train", *config, "--steps", "1", "--num-workers", "1") == 0
    tuned = json.loads((place / "tuned/config.json").read_text())
    assert tuned["lr_g"] == best["values"]["lr_g"]
    out = place / "grid.png"
    trial_run = place / f"sweep/trials/{best['number']:03d}"
    assert run_script("sample", trial_run, "-n", "4", "--out", out) == 0


@pytest.mark.slow
def test_the_best_settings_are_confirmed_with_seeds_that_no_trial_had(
    ray_session: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--trials", "4", "--set", "lr_d=choice(0.001,1e-9)", "--steps", "9")
    with Job(ray_session, place, *options, "--confirm", "2") as job:
        trainings = place / "sweep/confirmation/trials"
        job.wait_for(lambda: (trainings / "002/trial.json").exists())
        job.process.send_signal(signal.SIGINT)
        assert job.process.wait(TIMEOUT) != 0
    assert "to confirm them have not; to go on: " in job.log.read_text()
    first = (trainings / "000/trial.json").read_bytes()
    assert tune(place, *options, "--resume", "--confirm", "2") == 0
    output = capsys.readouterr().out
    assert (trainings / "000/trial.json").read_bytes() == first
    trials = records(place)
    confirmed = json.loads((place / "sweep/confirmed.json").read_text())
    assert confirmed["metric"] == FD_HERE
    assert len(confirmed["settings"]) == 4
    for setting in confirmed["settings"]:
        number = setting["trial"]
        assert setting["values"] == trials[number]["values"]
        assert len(setting["trainings"]) == 2
        own = trials[number]["reports"][-1]["objective"]
        found = [metrics[FD_HERE] for metrics in setting["trainings"]]
        assert own not in found
        assert setting["mean"]["value"] == pytest.approx(sum(found) / 2)
        assert setting["mean"]["low"] < min(found)
        assert {"quality/swd", FD_HERE} < set(setting["trainings"][0])
    means = [setting["mean"]["value"] for setting in confirmed["settings"]]
    assert means == sorted(means)
    seeds = {
        json.loads((folder / "config.json").read_text())["seed"] for folder in trainings.iterdir()
    }
    assert len(list(trainings.iterdir())) == 8
    assert seeds == {1, 2}
    best = json.loads((place / "sweep/best.json").read_text())
    values = confirmed["settings"][0]["values"]
    assert {name: best[name] for name in values} == values
    assert best["seed"] == 0
    lines = output.splitlines()
    assert lines[-4] == confirmed["found"]
    assert re.fullmatch(r"used:        [\d:]+ of worker time", lines[-3])
    summary = json.loads((place / "sweep/summary.json").read_text())
    assert summary["found"].startswith("confirmed with 2 new seeds (8 collapsed): ")
    assert (place / "sweep/expected-best.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "metric", "searched"),
    [
        ("vae-celeba", "validation/mse", {"lr", "kl_weight", "optimizer"}),
        ("vaegan-anime", "quality/fd_domain", {"gamma", "lr_g", "lr_d", "schedule", "beta1"}),
    ],
)
def test_every_family_is_searched_by_its_own_space_and_objective(
    ray_session: str, tmp_path: Path, preset: str, metric: str, searched: set[str]
) -> None:
    small = ("--width", "0.03", "--batch-size", "4", "--drawn-count", "60", "--steps", "9")
    options = (*small, "--latent-size", "8", "--sample-count", "2", "--max-kl", "1")
    there = ("--storage", str(tmp_path), "--run-name", "sweep", "--trials", "2", "--confirm", "0")
    assert run_script("tune", preset, *options, *there, "--scheduler", "none") == 0
    trials = records(tmp_path)
    assert [trial["status"] for trial in trials] == ["finished"] * 2
    for trial in trials:
        assert searched <= set(trial["values"])
        last = trial["reports"][-1]
        excess = max(0.0, last["metrics"].get("validation/kl", 0.0) - 1)
        bounded = excess if metric == "validation/mse" else 0.0
        assert last["objective"] == pytest.approx(last["metrics"][metric] + bounded)


@pytest.mark.slow
def test_clones_have_the_donor_s_networks_and_other_rates(
    ray_session: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = ("--space", "none", "--set", "lr_g=loguniform(1e-5,1e-2)")
    assert tune(place, "--trials", "5", "--scheduler", "pbt", "--keep", "99", *rates) == 0
    output = capsys.readouterr().out
    trials = records(place)
    assert [trial["status"] for trial in trials] == ["finished"] * 5
    # The defaults are left alone, for comparison.
    assert trials[0]["changes"] == []
    cloned = [trial for trial in trials if trial["changes"]]
    assert cloned
    checked = 0
    for trial in cloned:
        own = place / f"sweep/trials/{trial['number']:03d}/checkpoints"
        for saved in sorted(own.iterdir()):
            state = json.loads((saved / "state.json").read_text())
            maker = state["about"]["run"]
            if maker == f"{trial['number']:03d}":
                continue
            donor = place / f"sweep/trials/{maker}/checkpoints" / saved.name
            if not donor.exists():
                # The donor itself was cloned over later.
                continue
            for network in ("generator", "discriminator", "generator_ema"):
                mine, its = (load_file(p / f"{network}.safetensors") for p in (saved, donor))
                assert mine.keys() == its.keys()
                assert all(mine[name].equal(its[name]) for name in mine)
            images = f"{state['position']['images_seen']:,}"
            told = f"trial {trial['number']} goes on from trial {int(maker)}'s networks at {images}"
            assert told in output
            # With the next step, the trial goes on with a rate of its own.
            newer = [place for place in sorted(own.iterdir()) if place.name > saved.name]
            after = json.loads((newer[0] / "state.json").read_text())
            rate = after["optimizers"]["generator"]["param_groups"][0]["lr"]
            assert rate == after["about"]["config"]["lr_g"] == trial["values"]["lr_g"]
            assert rate != state["about"]["config"]["lr_g"]
            assert 1e-5 <= rate <= 1e-2
            # What the donor was measured at is not reported as the clone's.
            seen, its = state["position"]["images_seen"], records(place)[int(maker)]
            donors = [r["objective"] for r in its["reports"] if r["images_seen"] == seen]
            [mine] = [r["objective"] for r in trial["reports"] if r["images_seen"] == seen]
            assert mine not in donors
            checked += 1
    assert checked


@pytest.mark.slow
def test_a_sweep_may_lie_in_an_object_store(
    ray_session: str, place: Path, s3: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = ("--space", "none", "--set", "lr_g=loguniform(1e-5,1e-2)", "--steps", "9")
    storage = ("--storage", s3.uri, "--trials", "3", "--scheduler", "pbt")
    assert tune(place, *rates, *storage) == 0
    output = capsys.readouterr().out
    sweep = SweepFolder(s3.join("sweep"))
    # The command that it prints works as it is.
    [printed] = re.findall(r"^train it: +(?:uv run|python) jobs/(.*)$", output, re.MULTILINE)
    script, *words = shlex.split(printed)
    command = parse_run(TrainCommand, words, "")
    assert script == "train.py"
    assert command.job.storage == s3.uri
    best = best_trial(sweep.read_trials(), Objective(FD_HERE))
    assert best
    assert command.run.to_json()["lr_g"] == best.values["lr_g"]
    trials = sweep.read_trials()
    assert [trial.status for trial in trials] == ["finished"] * 3
    # Two trials are a population: the worse one goes on from the better one's networks.
    assert sum(bool(trial.changes) for trial in trials) >= 1
    assert "goes on from trial" in output
    assert {"best.json", "trials.csv", "sensitivity.png"} < set(sweep.folder.names())
    assert not [name for name in sweep.folder.names() if name.startswith(".ray")]
    assert sweep.trial_run(1).latest_checkpoint()
    events = [name for name in sweep.trial_run(1).folder.names() if "tfevents" in name]
    assert len([name for name in events if name.endswith("hparams")]) == 2


class Job:
    """jobs/tune.py as a process of its own, on the session's Ray."""

    def __init__(self, address: str, place: Path, *arguments: object) -> None:
        options = ("--data", place / "data", "--storage", place, "--run-name", "sweep")
        self.log = place / "log"
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs/tune.py"), *map(str, (*SMALL, *options, *arguments))],
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            env=os.environ | {"RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def progress(place: Path) -> dict[int, tuple[str, int]]:
    """Each trial's state and the number of its reports; records are replaced as a whole."""
    found = {}
    for file in (place / "sweep/trials").glob("*/trial.json"):
        trial = json.loads(file.read_text())
        found[trial["number"]] = (trial["status"], len(trial["reports"]))
    return found


def workers_alive(address: str) -> list[int]:
    """The processes of trials."""
    from ray.util.state import list_actors

    actors = list_actors(address, filters=[("state", "=", "ALIVE")])
    trials = [actor for actor in actors if (actor.class_name or "").endswith("ImplicitFunc")]
    return [trial.pid for trial in trials if trial.pid is not None]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_without_doing_anything_twice(
    ray_session: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--trials", "5", "--scheduler", "none", "--max-concurrent", "1", "--keep", "99")
    with Job(ray_session, place, *options) as job:
        # In the midst of the third trial.
        job.wait_for(lambda: progress(place).get(2, ("", 0))[1] >= 3)
        job.process.send_signal(signal.SIGKILL)
        job.process.wait()
    deadline = time.monotonic() + TIMEOUT
    while workers_alive(ray_session):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    killed = records(place)
    assert [trial["status"] for trial in killed] == ["finished", "finished", "running"]
    before = {n: (place / f"sweep/trials/{n:03d}/trial.json").read_bytes() for n in (0, 1)}
    steps_before = logged_steps(place, 2)
    files = {
        path: path.stat().st_mtime_ns
        for number in (0, 1)
        for path in (place / f"sweep/trials/{number:03d}").rglob("*")
    }

    assert tune(place, "--resume") == 0
    output = capsys.readouterr().out
    assert "2 trials have ended, 1 go on" in output
    trials = records(place)
    assert [trial["status"] for trial in trials] == ["finished"] * 5
    # Nothing of the finished ones was touched; the third went on from its last checkpoint; and of
    # the others each step was taken once.
    for number, content in before.items():
        assert (place / f"sweep/trials/{number:03d}/trial.json").read_bytes() == content
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert trials[2]["reports"][:3] == killed[2]["reports"][:3]
    again = sorted((Counter(logged_steps(place, 2)) - Counter(steps_before)).elements())
    assert again == list(range(again[0], STEPS + 1))
    assert 7 <= again[0] <= steps_before[-1] + 1
    for number in (3, 4):
        assert logged_steps(place, number) == list(range(1, STEPS + 1))
    for trial in trials:
        assert [report["images_seen"] for report in trial["reports"]] == list(range(16, 145, 16))

    assert tune(place, "--resume", "--trials", "6") == 0
    assert [trial["status"] for trial in records(place)] == ["finished"] * 6
    assert tune(place, "--resume") == 0
    assert "best FD (random-vgg)" in capsys.readouterr().out


@pytest.mark.slow
def test_failed_trials_are_tried_once_more_and_never_take_the_sweep_down(
    ray_session: str, place: Path
) -> None:
    # So long that the third trial is still in its midst when its process is looked up.
    options = (
        *("--space", "none", "--set", "lr_g=choice(0.0001,1e30,0.001)", "--search", "grid"),
        *("--scheduler", "none", "--max-concurrent", "1", "--steps", "270"),
    )
    with Job(ray_session, place, *options) as job:
        # The second trial fails by itself; a process is killed in the third.
        job.wait_for(lambda: progress(place).get(2, ("", 0))[1] >= 2)
        [pid] = workers_alive(ray_session)
        os.kill(pid, signal.SIGKILL)
        assert job.process.wait(TIMEOUT) == 0, job.log.read_text()
        output = job.log.read_text()
    assert "Traceback" not in output
    first, second, third = records(place)
    assert first["status"] == "finished"
    assert second["status"] == "failed"
    assert len(second["failures"]) == 2
    assert re.search(r"was not finite at step \d+", second["reason"])
    assert third["status"] == "finished"
    assert third["failures"] == [DIED]
    # From its checkpoint, not from the start.
    steps = logged_steps(place, 2)
    assert steps.count(1) == 1
    assert f"trial 2 failed ({DIED}); it is started" in output
    assert "trial 1 failed: " in output


@pytest.mark.slow
def test_several_workers_for_each_trial_and_ctrl_c(
    ray_session: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray.util.state import list_actors

    def train_workers() -> int:
        return sum(
            actor.class_name == "RayTrainWorker" for actor in list_actors(ray_session, limit=10_000)
        )

    before = train_workers()
    options = ("--trials", "2", "--workers-per-trial", "2", "--scheduler", "none")
    # So long that the second trial is still in its midst when it is told to stop.
    length = ("--steps", "450", "--log-images", "400")

    def interrupt(*resume: str) -> tuple[int, str]:
        """Interrupt the sweep after another report of the second trial."""
        before = progress(place)[1][1] if resume else 0
        with Job(ray_session, place, *options, *length, *resume) as job:
            job.wait_for(lambda: progress(place).get(1, ("", 0))[1] > before)
            os.killpg(job.process.pid, signal.SIGINT)
            code = job.process.wait(TIMEOUT)
        return code, job.log.read_text()

    def saved_step() -> int:
        saved = (place / "sweep/trials/001/checkpoints").iterdir()
        return max(int(folder.name.removeprefix("step-")) for folder in saved)

    code, output = interrupt()
    assert train_workers() - before == 4
    assert "2 trials of at most 3,600 images, 1 trial at once of 2 workers on CPUs" in output
    first, second = records(place)
    assert first["status"] == "finished"
    assert [r["images_seen"] for r in first["reports"]] == list(range(400, 3601, 400))
    assert code == 130, output
    assert second["status"] == "interrupted"
    assert re.search(r"1 of 2 trials have ended; to go on: .*--resume$", output, re.MULTILINE)
    if saved_step() % 50 == 0:
        # It may have been measured at that very step, by chance.
        interrupt("--resume")
    # Saved where it was, not only where it was measured last.
    assert saved_step() % 50 != 0


def test_mistakes_are_told_in_one_line_before_ray_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ("--storage", tmp_path / "runs")
    for arguments, message in (
        (("--set", "lr_q=uniform(0,1)"), "--set lr_q=uniform(0,1): unknown option 'lr_q'"),
        (("--set", "steps=randint(1,5)"), "unknown option 'steps'"),
        (("--set", "lr_g=loguniform(1e-3,1e-3)"), "is empty"),
        (("--set", "beta1=uniform(0,2)"), "--beta1 2.0: must be in [0, 1)"),
        (("--set", "schedule=choice(1:1,0:1)"), "--schedule 0:1: must be two-phase"),
        (("--space", "none"), "there is nothing to search"),
        (("--space", "nowhere.json"), "--space nowhere.json: cannot be read"),
        (("--metric", "loss/generatr"), "--metric loss/generatr: dcgan-celeba never logs it"),
        (("--trials", "0"), "--trials 0: must be auto or from 1 to 1,000,000"),
        (("--trials", "-3"), "--trials"),
        (("--trials", "3", "--search", "grid"), "--trials 3: --search grid has"),
        (("--workers-per-trial", "0"), "--workers-per-trial 0: must be at least 1"),
        (("--time-budget", "soon"), "--time-budget soon: must be a time, as 90s"),
        (("--search", "optuna", "--scheduler", "pbt"), "--search optuna: has no say"),
        (("--resume",), "holds no sweep"),
        (("--data", tmp_path / "nowhere"), "holds no manifest.json"),
    ):
        assert message in fails(capsys, "tune", *arguments, *storage)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_mistakes_that_only_ray_can_see(
    ray_session: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ("--data", place / "data", "--storage", place, "--run-name", "sweep")
    line = fails(capsys, "tune", "--workers-per-trial", "64", "--batch-size", "64", *there)
    assert "--workers-per-trial 64: the cluster has" in line
    grown = ("--cluster-may-grow-to", "4x8CPU+1GPU")
    line = fails(capsys, "tune", "--workers-per-trial", "5", "--batch-size", "20", *grown, *there)
    assert "--workers-per-trial 5: the cluster has 4 GPUs; use at most 4" in line
    assert "--max-concurrent 5000" in fails(capsys, "tune", "--max-concurrent", "5000", *there)
    line = fails(capsys, "tune", "--workers-per-trial", "2", "--batch-size", "7", *there)
    assert "--batch-size 7: cannot be split evenly over 2 workers" in line
    # Nothing half-started is left behind.
    assert not (place / "sweep").exists()


@pytest.mark.slow
@pytest.mark.parametrize("search", ["optuna", "random"])
def test_a_sweep_of_many_trials_may_end_before_anything_is_measured(
    ray_session: str, place: Path, capsys: pytest.CaptureFixture[str], search: str
) -> None:
    # Successive halving and Optuna want to see what a trial came to.
    # The first measurement would come after minutes.
    endless = ("--steps", "100000", "--log-images", "800")
    options = ("--search", search, "--trials", "100000", "--time-budget", "8s")
    assert tune(place, *endless, *options) == 1
    captured = capsys.readouterr()
    assert "no trial has been measured" in captured.err
    assert "Traceback" not in captured.err
    assert "dcgan-celeba: 100,000 trials of at most 800,000 images" in captured.out
    # Of the others there is no trace.
    assert "ompleted" not in captured.out
    assert len(captured.out.splitlines()) < 20
    trials = place / "sweep/trials"
    assert len(os.listdir(trials) if trials.exists() else []) <= 2


@pytest.mark.slow
def test_a_sweep_is_neither_overwritten_nor_changed_on_the_way(
    ray_session: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--space", "none", "--set", "lr_g=choice(0.0001,0.001)", "--search", "grid")
    assert tune(place, *options, "--scheduler", "none", "--time-budget", "0.01s") == 1
    captured = capsys.readouterr()
    assert "no trial has been measured" in captured.err
    assert "the time budget of these trials is spent" in captured.out
    there = ("--data", place / "data", "--storage", place, "--run-name", "sweep")
    assert "holds a sweep; go on with it (--resume)" in fails(capsys, "tune", *there)
    resumed = (*there, "--resume")
    assert "--width 0.5: the sweep in" in fails(capsys, "tune", *resumed, "--width", "0.5")
    assert "--metric loss/generator: the sweep" in fails(
        capsys, "tune", *resumed, "--metric", "loss/generator"
    )
    assert "--set" in fails(capsys, "tune", *resumed, "--set", "lr_d=choice(0.1,0.2)")
    assert "choose one" in fails(capsys, "tune", *resumed, "--restart")
    write_dataset(place / "other", (32,), (8,), size=32)
    line = fails(capsys, "tune", "--data", place / "other", *resumed[2:])
    assert "is not the dataset of the sweep" in line

    assert run_script("tune", *map(str, resumed), "--time-budget", "10m") == 0
    assert [trial["status"] for trial in records(place)] == ["finished"] * 2
    (place / "else").mkdir()
    (place / "else/file").touch()
    line = fails(capsys, "tune", *there[:4], "--run-name", "else", "--restart")
    assert "holds no sweep of raygen's (file), so nothing in it is touched" in line
