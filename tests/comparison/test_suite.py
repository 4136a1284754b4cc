"""Suite files: those that raygen brings along, and what is refused of others."""

import json
from pathlib import Path

import pytest

from raygen.comparison.contenders import sweep_of
from raygen.comparison.suite import known_suites, read_suite
from raygen.config.run import PRESETS
from raygen.core.errors import UserError
from raygen.evaluation.metrics import metric_of
from raygen.tuning.options import SweepOptions
from raygen.tuning.planning import make_plan

MEMBER = {"name": "A", "preset": "dcgan-celeba"}


def write(folder: Path, *members: object, **others: object) -> str:
    file = folder / "own.json"
    file.write_text(json.dumps({"contenders": list(members), **others}))
    return str(file)


@pytest.mark.parametrize("name", known_suites())
def test_raygen_s_own_suites_can_be_trained_and_searched(name: str) -> None:
    suite = read_suite(name)
    for member in suite.members:
        run = PRESETS[member.preset].updated(member.options, name)
        plan = make_plan(run, SweepOptions(set=member.set, space=member.space, metric="quality/fd"))
        assert plan.space
        # The defaults and more can be drawn.
        assert len({repr(values) for values, _ in zip(plan.trials(), range(5), strict=False)}) > 1
    for published in suite.published:
        assert published.source
        assert all(metric_of(tag).name for tag in published.figures)


def test_the_article_s_systems_are_compared() -> None:
    assert [m.preset for m in read_suite("celeba").members] == ["vae-celeba", "dcgan-celeba"]
    anime = read_suite("anime").members
    assert [m.options.get("schedule", m.options.get("objective")) for m in anime] == [
        "1:1",
        "two-phase",
        "larsen",
        "article",
    ]
    assert len({member.folder for member in anime}) == 4


def test_a_file_may_mix_presets_and_options(tmp_path: Path) -> None:
    other = {"name": "B b!", "preset": "vae-celeba", "options": {"lr": 0.01}, "space": "none"}
    path = write(
        tmp_path,
        MEMBER,
        other | {"set": ["lr=loguniform(1e-4,1e-2)"]},
        published=[{"name": "P", "source": "S", "figures": {"swd/published": 1.5}}],
    )
    suite = read_suite(path)
    assert [member.folder for member in suite.members] == ["a", "b-b"]
    assert suite.members[1].set == ("lr=loguniform(1e-4,1e-2)",)
    assert suite.published[0].figures == {"swd/published": 1.5}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "has 0 contenders"),
        ([{"preset": "dcgan-celeba"}], "name"),
        ([MEMBER | {"preset": "nope"}], "nope"),
        ([MEMBER | {"more": 1}], "more"),
        ([MEMBER, MEMBER], "two contenders are called 'A'"),
        ([MEMBER, MEMBER | {"name": "a"}], "two contenders are called 'a'"),
        ([MEMBER | {"set": "lr_g=fixed"}], "set"),
        (["A"], "contenders"),
    ],
)
def test_files_that_are_no_suites_are_refused(
    tmp_path: Path, members: list[object], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_suite(write(tmp_path, *members))
    assert "\n" not in str(error.value)


def test_places_without_a_suite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a file nor one of anime, celeba"):
        read_suite(f"{tmp_path}/nowhere.json")
    (tmp_path / "text.json").write_text("no JSON")
    with pytest.raises(UserError, match=r"text\.json"):
        read_suite(f"{tmp_path}/text.json")


def test_trainings_of_a_sweep_are_known_by_their_place() -> None:
    assert sweep_of("s3://b/runs/sweep/trials/003") == "s3://b/runs/sweep"
    assert sweep_of("runs/sweep/confirmation/trials/000/") == "runs/sweep"
    assert sweep_of("runs/dcgan") == ""
