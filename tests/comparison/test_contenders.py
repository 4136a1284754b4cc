"""What is established of contenders, and what is not."""

import math

import pytest
from contenders import contender, entry, some

from raygen.comparison.contenders import differences, gather, open_runs
from raygen.comparison.runs import RunInfo
from raygen.comparison.table import answers, compare, extractor_for_all, warnings
from raygen.core.errors import UserError


def test_the_best_is_the_one_that_no_seed_explains_away() -> None:
    contenders = some()
    rows = {row.tag: row for row in compare(contenders)}
    distance, coverage, swd = (
        rows[tag] for tag in ("random-vgg/fd", "random-vgg/coverage", "swd/by_real")
    )
    assert distance.best == 0
    assert coverage.best == 1
    assert swd.best is None
    assert distance.values == [[10, 11, 12], [30, 31, 32], []]
    assert distance.means[0].value == pytest.approx(11)
    assert math.isnan(distance.means[2].value)
    assert distance.beats[0, 1].value == pytest.approx(20)
    assert distance.beats[0, 1].low > 15
    assert (distance.floor, distance.untrained[0], distance.n) == (0.5, 99.0, 100)
    assert math.isnan(distance.untrained[2])
    found = answers(list(rows.values()), contenders, extractor_for_all(contenders))
    assert found[0] == f"Overall (FD (random-vgg)), a is better than {contenders[1].name}."
    assert found[1].endswith(f"{contenders[1].name} is better than a.")
    assert found[2] == "On colours and textures (SWD), no difference is established."


def test_what_cannot_be_is_no_part_of_an_interval_and_not_all_metrics_rank() -> None:
    a, b = (
        contender(
            name,
            *(
                entry(name, k, vgg__coverage=c + k / 100, vgg__fd=f + k, diversity__ms_ssim=m)
                for k, m in enumerate((0.2, 0.21, 0.22))
            ),
        )
        for name, c, f in (("a", 0.0, 5.0), ("b", 0.98, 200.0))
    )
    rows = {row.tag: row for row in compare([a, b])}
    coverage = rows["random-vgg/coverage"]
    assert coverage.means[0].low == 0
    assert 0.01 < coverage.means[0].high < 0.1
    assert coverage.means[1].high == 1
    assert coverage.best == 1
    far = contender("c", *(entry("c", k, diversity__ms_ssim=0.9 + k / 100) for k in range(3)))
    [similarity] = [row for row in compare([a, far]) if row.tag == "diversity/ms_ssim"]
    assert similarity.beats == {}
    # Before their trainings, all had 99.
    [text] = warnings(list(rows.values()), [a, b], "random-vgg")
    assert text.startswith("b is no better than without training (FD (random-vgg) 201 against 99)")


def test_one_seed_or_other_numbers_of_images_establish_nothing() -> None:
    alone = [contender(n, entry(n, 0, vgg__fd=v)) for n, v in (("a", 1.0), ("b", 90.0))]
    [row] = compare(alone)
    assert row.best is None
    [text] = answers([row], alone, "random-vgg")
    assert text.endswith("one seed of each cannot establish a difference.")
    unequal = [
        contender(name, *(entry(name, seed, n, vgg__fd=v + seed / 10) for seed in range(3)))
        for name, v, n in (("a", 1.0, 100), ("b", 90.0, 200))
    ]
    [row] = compare(unequal)
    assert row.beats == {}
    assert row.n == 100


def test_features_of_different_networks_establish_nothing() -> None:
    pairs = [
        contender(name, *(entry(name, seed, vgg__fd=v + seed / 10) for seed in range(3)))
        for name, v in (("a", 1.0), ("b", 90.0))
    ]
    for each in pairs:
        for one in each.entries:
            assert one.evaluation
            about = {"extractors": {"random-vgg": {"sha256": "same"}}}
            one.evaluation.about.update(about)  # type: ignore[attr-defined]
    [row] = compare(pairs)
    assert row.best == 0
    first = pairs[0].entries[0].evaluation
    assert first
    first.about["extractors"]["random-vgg"]["sha256"] = "other"
    [row] = compare(pairs)
    assert row.beats == {}


def test_three_contenders_may_be_told_apart_in_part() -> None:
    values = {"a": 1.0, "b": 1.1, "c": 9.0}
    three = [
        contender(name, *(entry(name, seed, vgg__fd=v + seed / 10) for seed in range(3)))
        for name, v in values.items()
    ]
    [row] = compare(three)
    assert set(row.beats) == {(0, 2), (1, 2)}
    [text] = answers([row], three, "random-vgg")
    assert "a and b are better than c; other differences are not" in text


def info(uri: str, preset: str, seed: int, **options: object) -> RunInfo:
    config = {"preset": preset, "seed": seed, "num_workers": seed, "lr_g": 1e-4, "steps": 10}
    return RunInfo(uri, uri, "training", preset=preset, config=config | options)


def test_runs_that_differ_in_their_seeds_alone_are_one_contender() -> None:
    runs = [
        info("0", "dcgan-celeba", 0),
        info("1", "vae-celeba", 0),
        info("2", "dcgan-celeba", 1),
        info("3", "dcgan-celeba", 0, lr_g=1e-3),
        info("4", "dcgan-celeba", 0, steps=20),
    ]
    found = gather(runs)
    assert [[run.uri for run in group] for _, _, group in found] == [
        ["0", "2"],
        ["1"],
        ["3"],
        ["4"],
    ]
    assert [name for name, _, _ in found] == [
        "dcgan-celeba, lr_g 1.0e-04, steps 10",
        "vae-celeba",
        "dcgan-celeba, lr_g 1.0e-03, steps 10",
        "dcgan-celeba, lr_g 1.0e-04, steps 20",
    ]
    many = [info(str(k), "vae-celeba", 0, a=k, b=k, c=k) for k in range(28)]
    names = [name for name, _, _ in gather([*many, info("x", "dcgan-celeba", 0)])]
    assert names[:2] == ["vae-celeba A", "vae-celeba B"]
    assert names[25:] == ["vae-celeba Z", "vae-celeba AA", "vae-celeba AB", "dcgan-celeba"]
    rows = dict(differences([contender("a"), contender("b")]))
    assert rows == {"preset": ["a", "b"]}


def test_what_is_no_run_is_refused(tmp_path: object) -> None:
    for path in (f"{tmp_path}", f"{tmp_path}/nowhere"):
        with pytest.raises(UserError, match="is no run"):
            open_runs([path])
