"""What a sweep may try, and which values its trials have."""

import json
import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from raygen.config.domains import (
    SURE_TRIALS,
    Choice,
    Range,
    Space,
    Values,
    grid_size,
    grid_trials,
    random_combinations,
    random_trials,
    read_space,
    short,
)
from raygen.config.families import DCGANConfig, VAEConfig, VAEGANConfig
from raygen.config.run import PRESETS
from raygen.core.errors import UserError

KNOWN: Values = {"lr_g": 1e-4, "schedule": "1:1", "batch_size": 128, "spectral_norm": False}
LR = Range(1e-5, 1e-3, log=True)


def read(*settings: str, file: str = "none", default: Space | None = None) -> Space:
    return read_space(default or {}, file, settings, KNOWN)


def test_each_kind_of_domain_is_read() -> None:
    space = read(
        "lr_g=loguniform(1e-5, 1e-3)",
        "--batch-size=randint(16,64)",
        "schedule=choice(1:1,two-phase)",
        "spectral_norm=choice(true,false)",
    )
    assert space == {
        "lr_g": LR,
        "batch_size": Range(16, 64, whole=True),
        "schedule": Choice(("1:1", "two-phase")),
        "spectral_norm": Choice((True, False)),
    }
    assert read("batch_size=choice(32,64)")["batch_size"] == Choice((32, 64))
    # A number that must be whole, searched by its logarithm.
    assert read("batch_size=loguniform(16,256)")["batch_size"] == Range(16, 256, True, True)


def test_a_domain_says_what_it_was_read_from() -> None:
    for text in ("loguniform(1e-05,0.001)", "uniform(0,0.3)", "choice(0.5,0.9)"):
        assert str(read(f"lr_g={text}")["lr_g"]) == text
    assert str(read("batch_size=loguniform(16,64)")["batch_size"]) == "loguniform(16,64)"
    assert str(read("batch_size=randint(16,64)")["batch_size"]) == "randint(16,64)"


def test_a_file_replaces_the_default_and_settings_change_it(tmp_path: Path) -> None:
    default: Space = {"lr_g": LR, "schedule": Choice(("1:1", "5:1"))}
    assert read(file="", default=default) == default
    assert read("lr_g=fixed", file="", default=default) == {"schedule": default["schedule"]}
    file = tmp_path / "space.json"
    file.write_text(json.dumps({"batch_size": [32, 64], "lr_g": "uniform(0.1,0.2)"}))
    changed = read("lr_g=loguniform(1e-5,1e-3)", file=str(file), default=default)
    assert changed == {"batch_size": Choice((32, 64)), "lr_g": LR}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr_q=uniform(0,1)", "unknown option 'lr_q'; known are batch_size, lr_g"),
        ("lr_g", "must be an option and its domain"),
        ("lr_g=0.1", "'0.1' is no domain; write loguniform"),
        ("lr_g=uniform(1)", "must have a lowest and a highest value"),
        ("lr_g=uniform(1,1)", "is empty"),
        ("lr_g=uniform(2,1)", "is empty"),
        ("lr_g=uniform(0,inf)", "is empty"),
        ("lr_g=uniform(0,much)", "much must be a number"),
        ("lr_g=loguniform(0,1)", "must be above 0"),
        ("lr_g=choice(0.1)", "must offer at least two values"),
        ("lr_g=choice()", "must offer at least two values"),
        ("schedule=uniform(0,1)", "is no number; write choice"),
        ("batch_size=choice(32,6.5)", "6.5 must be a whole number"),
        ("spectral_norm=choice(yes,no)", "yes must be true or false"),
    ],
)
def test_domains_that_make_no_sense_are_refused(setting: str, message: str) -> None:
    with pytest.raises(UserError, match="--set " + setting.split("=")[0]) as caught:
        read(setting)
    assert message in str(caught.value)


def test_files_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read(file=str(tmp_path / "nowhere.json"))
    for content, message in (
        ("{", "not valid JSON"),
        ("[]", "must hold one JSON object"),
        ('{"lr_g": 3}', "must be a list of values, or a text"),
        ('{"lr_q": [1, 2]}', "lr_q: unknown option"),
    ):
        file = tmp_path / "space.json"
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            read(file=str(file))


def test_trial_0_has_the_defaults_and_others_depend_on_seed_and_number_alone() -> None:
    space: Space = {"lr_g": LR, "schedule": Choice(("1:1", "5:1"))}
    defaults: Values = {"lr_g": 1e-4, "schedule": "1:1"}
    ten = list(islice(random_trials(space, defaults, 3), 10))
    assert ten[0] == defaults
    assert ten == list(islice(random_trials(space, defaults, 3), 12))[:10]
    assert ten[1:] != list(islice(random_trials(space, defaults, 4), 10))[1:]
    assert len({str(values) for values in ten}) == 10
    assert {values["schedule"] for values in ten} == {"1:1", "5:1"}


def test_values_repeat_only_where_there_are_no_others() -> None:
    space: Space = {"schedule": Choice(("1:1", "5:1", "1:2"))}
    four = [v["schedule"] for v in islice(random_trials(space, {"schedule": "1:1"}, 0), 4)]
    assert set(four[:3]) == {"1:1", "5:1", "1:2"}
    assert four[3] in four[:3]


def test_values_that_do_not_go_together_are_drawn_again() -> None:
    space: Space = {"batch_size": Range(8, 16, whole=True)}

    def even(values: Values) -> bool:
        return int(values["batch_size"]) % 2 == 0

    drawn = list(islice(random_trials(space, {"batch_size": 8}, 0, even), 5))
    assert {values["batch_size"] for values in drawn} == {8, 10, 12, 14, 16}
    with pytest.raises(UserError, match=r"batch_size=randint\(8,16\): of 100 settings .* none"):
        list(islice(random_trials(space, {"batch_size": 8}, 0, lambda _: False), 2))


def test_a_search_that_has_begun_does_not_end_for_one_unlucky_trial() -> None:
    # After the first trials, only one in 150 draws may be tried.
    asked = 0

    def allowed(values: Values) -> bool:
        nonlocal asked
        asked += 1
        return asked <= SURE_TRIALS or asked % 150 == 0

    trials = random_trials({"lr_g": LR}, {"lr_g": 1e-4}, 0, allowed)
    assert len({values["lr_g"] for values in islice(trials, SURE_TRIALS + 20)}) > SURE_TRIALS


def test_random_values_fill_their_ranges() -> None:
    random = np.random.default_rng(0)
    rates = [LR.sample(random) for _ in range(500)]
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    # By logarithm, half of them lie below the middle decade mark.
    assert 0.4 < np.mean([rate < 1e-4 for rate in rates]) < 0.6
    whole = {Range(1, 3, whole=True).sample(random) for _ in range(100)}
    assert whole == {1, 2, 3}
    assert all(isinstance(value, int) for value in whole)


def test_a_grid_has_all_combinations_and_the_defaults_once() -> None:
    space: Space = {"schedule": Choice(("1:1", "5:1")), "lr_g": LR}
    inside = list(grid_trials(space, {"schedule": "1:1", "lr_g": 1e-4}))
    assert len(inside) == grid_size(space, inside[0]) == 6
    assert [values["lr_g"] for values in inside].count(1e-4) == 2
    outside = list(grid_trials(space, {"schedule": "1:1", "lr_g": 0.5}))
    assert len(outside) == grid_size(space, outside[0]) == 7
    assert outside[0] == {"schedule": "1:1", "lr_g": 0.5}
    # A value that is offered twice is tried twice, unless it is the default.
    twice: Space = {"schedule": Choice(("1:1", "5:1", "5:1", "1:1")), "lr_g": LR}
    for schedule in ("1:1", "5:1", "1:2"):
        defaults: Values = {"schedule": schedule, "lr_g": 1e-4}
        assert len(list(grid_trials(twice, defaults))) == grid_size(twice, defaults)


def test_combinations_of_a_grid_are_picked_at_random() -> None:
    space: Space = {"schedule": Choice(("1:1", "5:1")), "lr_g": LR}
    picked = list(islice(random_combinations(space), 100))
    assert picked == list(islice(random_combinations(space), 100))
    assert {tuple(values.values()) for values in picked} == {
        (schedule, rate) for schedule in ("1:1", "5:1") for rate in (1e-5, 1e-4, 1e-3)
    }


def test_shares_and_values_of_ranges_are_each_others_inverse() -> None:
    for domain in (LR, Range(-1, 3)):
        for share in (0.0, 0.25, 1.0):
            assert domain.share(domain.at(share)) == pytest.approx(share, abs=1e-3)
    assert LR.share(0.0) < 0
    assert math.isclose(LR.clip(5), 1e-3)
    assert math.isclose(LR.clip(0), 1e-5)


def test_presets_search_two_decades_around_their_defaults() -> None:
    dcgan = PRESETS["dcgan-celeba"].model
    assert isinstance(dcgan, DCGANConfig)
    assert dcgan.search_space["lr_g"] == Range(1e-5, 1e-3, log=True)
    assert dcgan.search_space["lr_d"] == Range(1e-4, 1e-2, log=True)
    ratios = dcgan.search_space["schedule"]
    assert isinstance(ratios, Choice)
    assert set(ratios.values) == {"1:1", "2:1", "5:1", "1:2", "4:1", "two-phase"}
    assert dcgan.search_space["beta1"] == Choice((0.0, 0.5))
    vae = PRESETS["vae-celeba"].model
    assert isinstance(vae, VAEConfig)
    assert set(vae.search_space) == {"lr", "kl_weight", "optimizer"}
    assert vae.best_by == "validation/mse"
    # A learning rate of 0 stands for the objective's own, which has to be known.
    vaegan = PRESETS["vaegan-anime"].model.explicit
    assert isinstance(vaegan, VAEGANConfig)
    assert (vaegan.lr_g, vaegan.lr_vae) == (1e-3, 1e-3)
    assert vaegan.search_space["lr_g"] == Range(1e-4, 1e-2, log=True)
    assert "gamma" in vaegan.search_space
    assert vaegan.best_by == "quality/fd"


def test_every_preset_accepts_all_that_its_space_offers() -> None:
    for preset in PRESETS.values():
        for name, domain in preset.model.explicit.search_space.items():
            for value in (*domain.extremes, *domain.points()):
                config = preset.updated({name: value}, "test")
                assert config.to_json()[name] == value


def test_values_are_shown_short() -> None:
    assert [short(value) for value in (2.1345e-4, 0.5, 0.0, "2:1", 64)] == [
        "2.1e-04",
        "0.5",
        "0",
        "2:1",
        "64",
    ]
