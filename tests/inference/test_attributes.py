"""Comparing images with and without an attribute, where others go along with it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import build_any, small_config
from torch import Tensor

from raygen.core.storage import Folder
from raygen.data.shards.manifest import MANIFEST, Manifest, write_shard
from raygen.data.sources.drawn_faces import face_attributes
from raygen.data.splits import TRAIN, VALIDATION
from raygen.inference.attributes import (
    LEAST_IN_ALL,
    MOST_BALANCED,
    Comparison,
    compare,
    correlation,
)
from raygen.inference.model import TrainedModel


def signs(random: np.random.Generator, share: np.ndarray | float, count: int) -> np.ndarray:
    """Attributes (count,) of 1 and -1; each is 1 with the probability `share`."""
    values: np.ndarray = np.where(random.random(count) < share, 1, -1).astype(np.int8)
    return values


def going_along(count: int = 4_000, likeness: float = 0.85) -> dict[str, np.ndarray]:
    """Attributes: `Smiling` mostly equals `Female` and not `Old`, and has no part in `Hat`."""
    random = np.random.default_rng(0)
    female = signs(random, 0.5, count)
    smiling = signs(random, np.where(female == 1, likeness, 1 - likeness), count)
    old = signs(random, np.where(smiling == 1, 0.35, 0.65), count)
    return {"Smiling": smiling, "Female": female, "Old": old, "Hat": signs(random, 0.3, count)}


def difference(comparison: Comparison, codes: np.ndarray) -> np.ndarray:
    """What is found of codes (N, L): the weighted mean over strata of differences of means."""
    assert sum(s.weight for s in comparison.strata) == pytest.approx(1)
    parts = [
        s.weight * (codes[s.present].mean(0) - codes[s.absent].mean(0)) for s in comparison.strata
    ]
    found: np.ndarray = np.sum(parts, axis=0)
    return found


def test_the_correlation_of_attributes() -> None:
    values = going_along()
    for first, second in (("Smiling", "Female"), ("Smiling", "Old"), ("Hat", "Old")):
        expected = np.corrcoef(values[first], values[second])[0, 1]
        assert correlation(values[first], values[second]) == pytest.approx(expected)
    # What is unknown does not count, and what never changes tells nothing.
    unknown = values["Smiling"].copy()
    unknown[1_000:] = 0
    expected = np.corrcoef(values["Smiling"][:1_000], values["Female"][:1_000])[0, 1]
    assert correlation(unknown, values["Female"]) == pytest.approx(expected)
    assert correlation(values["Smiling"], np.ones(4_000, np.int8)) == 0
    assert correlation(values["Smiling"], np.zeros(4_000, np.int8)) == 0


def test_what_goes_along_with_an_attribute_does_not_leak_into_its_difference() -> None:
    values = going_along()
    # Codes are a linear function of the attributes, a dimension for each, and of noise.
    noise = np.random.default_rng(1).normal(0, 0.1, (4_000, 4))
    codes = np.stack(list(values.values()), axis=1) + noise
    comparison = compare(values, "Smiling", 4_000)
    assert comparison.balanced == ("Female", "Old")
    assert len(comparison.strata) == 4
    plain = compare({"Smiling": values["Smiling"]}, "Smiling", 4_000)
    assert plain.balanced == ()
    assert len(plain.strata) == 1
    smiling, female, old, hat = difference(comparison, codes)
    assert smiling == pytest.approx(2, abs=0.02)
    assert (female, old) == pytest.approx((0, 0), abs=0.02)
    assert hat == pytest.approx(0, abs=0.2)
    leaked = difference(plain, codes)
    assert leaked[0] == pytest.approx(2, abs=0.02)
    assert leaked[1] > 1.2
    assert leaked[2] < -0.5


def test_images_of_which_an_attribute_is_unknown_are_in_no_stratum() -> None:
    values = going_along()
    del values["Old"]
    values["Female"][::2] = 0
    comparison = compare(values, "Smiling", 4_000)
    assert comparison.balanced == ("Female",)
    rows = np.concatenate([r for s in comparison.strata for r in (s.present, s.absent)])
    assert (rows % 2 == 1).all()
    assert len(set(rows.tolist())) == len(rows) == 2_000
    for stratum in comparison.strata:
        for kind, rows in ((1, stratum.present), (-1, stratum.absent)):
            assert (values["Smiling"][rows] == kind).all()
            assert len(set(values["Female"][rows].tolist())) == 1


def test_with_too_few_images_less_is_balanced() -> None:
    few = {name: values[:60] for name, values in going_along().items()}
    comparison = compare(few, "Smiling", 2_000)
    assert comparison.balanced == ()
    [stratum] = comparison.strata
    assert len(stratum.present) + len(stratum.absent) == 60
    assert stratum.weight == 1
    # An attribute that is always the same as another leaves nothing to compare.
    same = going_along()
    same["Grinning"] = same["Smiling"]
    assert compare(same, "Smiling", 4_000).balanced == ("Female", "Old")
    # Of few that differ, there are enough from a number of them on.
    for count, expected in ((LEAST_IN_ALL - 1, ()), (LEAST_IN_ALL, ("Other",))):
        wanted = np.where(np.arange(1_000) < 500, 1, -1).astype(np.int8)
        other = wanted.copy()
        other[:count] = -1
        found = compare({"Wanted": wanted, "Other": other}, "Wanted", 1_000)
        assert found.balanced == expected


def test_what_an_attribute_implies_is_balanced_and_what_it_excludes_is_not() -> None:
    # As of the bald, who are men: they are compared with other men.
    male = np.where(np.arange(1_000) % 2 == 0, 1, -1).astype(np.int8)
    bald = np.where(np.arange(1_000) % 10 == 0, 1, -1).astype(np.int8)
    found = compare({"Bald": bald, "Male": male}, "Bald", 1_000)
    assert found.balanced == ("Male",)
    [stratum] = found.strata
    assert (male[stratum.absent] == 1).all()
    # Each image is of one class, which is compared with all others.
    kinds = np.arange(1_000) % 4
    classes = {str(kind): np.where(kinds == kind, 1, -1).astype(np.int8) for kind in range(4)}
    assert abs(correlation(classes["0"], classes["1"])) > 0.3
    assert compare(classes, "0", 1_000).balanced == ()


def test_a_handful_of_attributes_is_balanced_the_strongest_ones() -> None:
    random = np.random.default_rng(0)
    wanted = signs(random, 0.5, 40_000)
    values = {"wanted": wanted}
    for number in range(7):
        likeness = 0.6 + 0.03 * number
        share = np.where(wanted == 1, likeness, 1 - likeness)
        values[str(number)] = signs(random, share, 40_000)
    found = compare(values, "wanted", 40_000)
    assert found.balanced == ("6", "5", "4", "3")
    assert len(found.strata) == 2**MOST_BALANCED


@pytest.mark.parametrize("most", [2, 3, 50, 1_001])
def test_at_most_so_many_images_are_chosen_the_first_of_each_stratum(most: int) -> None:
    values = going_along()
    found, everyone = (compare(values, "Smiling", count) for count in (most, 10**6))
    for kind in ("present", "absent"):
        sizes = [len(getattr(stratum, kind)) for stratum in found.strata]
        assert sum(sizes) <= max(most // 2, len(sizes))
        assert min(sizes) >= 1
        if most > 20:
            # As many as may be, and as equal as may be.
            assert sum(sizes) > most // 2 - len(sizes)
            whole = [len(getattr(stratum, kind)) for stratum in everyone.strata]
            assert sizes == [min(size, max(sizes)) for size in whole]
    # Without strata, half of them have the attribute.
    [plain] = compare({"Smiling": values["Smiling"]}, "Smiling", most).strata
    half = max(1, most // 2)
    assert plain.present.tolist() == np.flatnonzero(values["Smiling"] == 1)[:half].tolist()
    assert len(plain.absent) == half


def test_an_attribute_vector_of_drawn_faces_holds_nothing_of_another(tmp_path: Path) -> None:
    # Of faces whose attributes are known, those are kept in which two go together.
    names, random, kept = ("Smiling", "Male"), np.random.default_rng(0), []
    for position in range(3_000):
        known = face_attributes(0, position)
        row = [1 if known[name] else -1 for name in names]
        if row[0] == row[1] or random.random() < 0.2:
            kept.append(row)
    values = np.array(kept)
    assert np.corrcoef(values.T)[0, 1] > 0.5
    # Each picture holds its number, by which the encoder knows the attributes.
    pixels = np.zeros((len(values), 64, 64, 3), np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = np.divmod(np.arange(len(values)), 256)
    ids = [str(number) for number in range(len(values))]
    file = write_shard(Folder.at(tmp_path), "train-00000.parquet", pixels, ids, values)
    splits = {TRAIN: (file,), VALIDATION: ()}
    manifest = Manifest(64, 64, names, splits, {}, 0, ())
    Folder.at(tmp_path).write_json(MANIFEST, manifest.to_json())

    axes = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    axes /= axes.norm(dim=1, keepdim=True)

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        high, low = ((images[:, k, 0, 0] + 1) * 127.5 for k in (0, 1))
        codes = torch.tensor(values)[(high * 256 + low).round().long()].float() @ axes
        return codes, torch.zeros_like(codes)

    model = build_any(small_config("vaegan-anime", latent_size=8))
    trained = TrainedModel(model, 0)
    trained.model = SimpleNamespace(  # type: ignore[assignment]
        encode=encode, can_encode=True, config=model.config, latent_shape=(8,)
    )
    for number, name in enumerate(names):
        told: list[tuple[str, ...]] = []
        vector = trained.attribute_vector(Folder.at(tmp_path), name, balanced=told.append)
        assert told == [(names[1 - number],)]
        torch.testing.assert_close(vector, 2 * axes[number], rtol=1e-4, atol=1e-4)
    of_all = values[:, 0] == 1
    plain = values[of_all].mean(0) - values[~of_all].mean(0)
    # The plain difference has as much as a half of the other attribute.
    assert plain[1] > 1
