"""What a sweep notes on disk."""

from pathlib import Path

from raygen.storage import Folder
from raygen.tuning.objective import Objective
from raygen.tuning.records import Report, Status, SweepFolder, Trial, best_trial

LOW = Objective("quality/swd")


def report(images: int, objective: float) -> Report:
    return Report(images, objective, images / 10, 1e9, {"quality/swd": objective})


def trial(number: int, *objectives: float, status: Status = "finished", every: int = 100) -> Trial:
    reports = [report(every * (k + 1), value) for k, value in enumerate(objectives)]
    return Trial(number, {"lr_g": number / 10}, status, reports=reports)


def test_trials_are_read_as_they_were_written(tmp_path: Path) -> None:
    sweep = SweepFolder(Folder.at(tmp_path))
    assert sweep.read_trials() == []
    trials = [trial(0, 3.0, 2.0), trial(1, status="failed"), trial(12, 4.0, status="stopped")]
    trials[1].failures, trials[1].reason = ["no", "again"], "again"
    for each in reversed(trials):
        sweep.write_trial(each)
    # A trial whose folder was made, but that had not begun.
    (tmp_path / "trials/002").mkdir()
    assert sweep.read_trials() == trials


def test_reports_after_one_that_is_made_again_are_forgotten() -> None:
    known = trial(0, 3.0, 2.0, 1.0)
    known.add(report(200, 2.5))
    assert [(r.images_seen, r.objective) for r in known.reports] == [(100, 3.0), (200, 2.5)]
    assert (known.images_seen, known.objective, known.seconds) == (200, 2.5, 20)
    # Told again after a restart: it is as it was.
    known.add(Report(200, 2.5, 21, 2e9, {}))
    assert known.reports[-1] == report(200, 2.5)
    known.add(report(150, 2.5))
    assert [r.images_seen for r in known.reports] == [100, 150]
    known.add(report(300, 1.0))
    assert [r.images_seen for r in known.reports] == [100, 150, 300]


def test_the_best_trial_is_among_those_that_have_come_furthest() -> None:
    short = trial(1, 1.0, status="stopped")
    finished = [trial(0, 9.0, 5.0, 4.0), trial(2, 9.0, 2.0, 3.0)]
    assert best_trial([*finished, short], LOW) is finished[1]
    assert best_trial([*finished, short], Objective("quality/swd", "max")) is finished[0]
    # Another batch size ends a little earlier.
    nearly = trial(3, 2.0, every=280)
    assert best_trial([*finished, nearly], LOW) is nearly
    assert best_trial([], LOW) is None
    assert best_trial([trial(0, status="running")], LOW) is None


def test_neither_failed_trials_nor_nan_are_best() -> None:
    good = trial(1, 5.0)
    assert best_trial([trial(0, float("nan")), good], LOW) is good
    assert best_trial([good, trial(0, float("nan"))], LOW) is good
    assert best_trial([trial(0, 1.0, status="failed"), good], LOW) is good
