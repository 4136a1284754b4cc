"""raygen's reader of event files, against TensorBoard's own."""

import itertools
import os
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard import errors
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.context import RequestContext
from tensorboard.plugins.audio import metadata as audio
from torch.utils.tensorboard import SummaryWriter

from raygen.config.domains import Range, Space
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.tensorboard import events, hparams
from raygen.tensorboard import provider as provider_module
from raygen.tensorboard.events import Place, RunEvents
from raygen.tensorboard.provider import Runs, RunsProvider, event_files, shown
from raygen.tensorboard.run_log import RunLog

MOST = 10_000
"""More points than any series here has."""


class Reader:
    """What raygen reads of a folder."""

    def __init__(self, place: Path) -> None:
        self.runs = Runs(str(place))
        self.provider = RunsProvider(self.runs, str(place))

    def losses(self) -> dict[str, list[tuple[int, float]]]:
        self.runs.update()
        found = ask(self.provider, "read_scalars", "scalars")
        return {run: [(p.step, p.value) for p in tags["loss"]] for run, tags in found.items()}


def ask(provider: Any, question: str, plugin: str, most: int | None = MOST) -> Any:
    more = {} if most is None else {"downsample": most}
    asked = getattr(provider, question)
    return asked(RequestContext(), experiment_id="", plugin_name=plugin, **more)


def originals(place: Path) -> MultiplexerDataProvider:
    """TensorBoard's own provider."""
    kept = dict.fromkeys(("scalars", "images", "text", "hparams", "histograms", "audio"), MOST)
    multiplexer = EventMultiplexer(tensor_size_guidance=kept)
    multiplexer.AddRunsFromDirectory(str(place)).Reload()
    return MultiplexerDataProvider(multiplexer, str(place))


def log_loss(place: Path, step: int, value: float, seen: int = 0) -> None:
    with RunLog(Folder.at(place), seen) as log:
        log.scalars({"loss": value}, Position(images_seen=step))


def event_file(place: Path) -> Path:
    [file] = place.glob("*tfevents*")
    return file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    place = tmp_path / "runs/vae"
    log_loss(place, 10, 1.0)
    return place


def test_it_tells_what_tensorboards_own_reader_tells(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    place = Folder.at(tmp_path / "runs/sweep/trials/000")
    space: Space = {"lr": Range(1e-5, 1e-3, log=True)}
    hparams.write_start(place, "000", space, {"lr": 1e-4}, 5.0)
    for seen in (0, 300):
        # The second session goes on before the end of the first.
        with RunLog(place, seen) as log:
            log.text("config", "| option | value |")
            for step in range(seen + 100, seen + 600, 100):
                values = {"loss/total": 1 / step, "quality/swd": 50.0}
                log.scalars(values, Position(images_seen=step))
                log.picture("samples", random.integers(0, 256, (24, 40, 3), np.uint8), step)
    hparams.write_end(place, True)
    # Of others' runs.
    with SummaryWriter(str(tmp_path / "runs/other"), purge_step=0) as writer:
        for step in range(3):
            writer.add_histogram("weights", random.normal(size=100), step)
            writer.add_scalar("newer", step / 3, step, new_style=True)
            writer.add_images("batch", random.random((2, 3, 8, 8)), step)
            writer.add_audio("noise", random.random(100), step)

    reader = Reader(tmp_path / "runs")
    reader.runs.update()
    mine, theirs = reader.provider, originals(tmp_path / "runs")
    context = {"ctx": RequestContext(), "experiment_id": ""}
    assert set(mine.list_plugins(**context)) == set(theirs.list_plugins(**context))
    assert sorted(map(repr, mine.list_runs(**context))) == sorted(
        map(repr, theirs.list_runs(**context))
    )
    pictures = 0
    for plugin in theirs.list_plugins(**context):
        for kind in ("scalars", "tensors", "blob_sequences"):
            assert ask(mine, f"list_{kind}", plugin, None) == ask(
                theirs, f"list_{kind}", plugin, None
            )
        for kind in ("scalars", "tensors"):
            assert ask(mine, f"read_{kind}", plugin) == ask(theirs, f"read_{kind}", plugin)
        last = ask(theirs, "read_last_scalars", plugin, None)
        assert ask(mine, "read_last_scalars", plugin, None) == last
        blobs = ask(theirs, "read_blob_sequences", plugin)
        same = ask(mine, "read_blob_sequences", plugin)
        assert {run: tags.keys() for run, tags in same.items()} == {
            run: tags.keys() for run, tags in blobs.items()
        }
        for run, tag in ((run, tag) for run, tags in blobs.items() for tag in tags):
            for own, other in zip(same[run][tag], blobs[run][tag], strict=True):
                assert (own.step, own.wall_time) == (other.step, other.wall_time)
                for one, two in zip(own.values, other.values, strict=True):
                    pictures += 1
                    blob = mine.read_blob(blob_key=one.blob_key)
                    assert blob == theirs.read_blob(RequestContext(), blob_key=two.blob_key)
    assert pictures > 3 * 7
    assert audio.PLUGIN_NAME in theirs.list_plugins(**context)


def test_pictures_stay_in_their_files(tmp_path: Path) -> None:
    with RunLog(Folder.at(tmp_path / "vae"), 0) as log:
        for step in (1, 2):
            log.picture("samples", np.zeros((24, 40, 3), np.uint8), step)
    run = RunEvents()
    [files] = event_files(str(tmp_path)).values()
    run.update(files, threading.Lock())
    [series] = run.series.values()
    assert [type(value) for value in series.others] == [Place, Place]
    assert series.metadata.ByteSize() < 200


def test_more_is_read_as_a_file_grows_and_half_a_record_waits(run: Path) -> None:
    reader, file = Reader(run.parent), event_file(run)
    whole = file.read_bytes()
    for size in range(len(whole) - 40, len(whole)):
        file.write_bytes(whole[:size])
        assert reader.losses().get("vae", []) == []
    file.write_bytes(whole)
    assert reader.losses() == {"vae": [(10, 1.0)]}
    assert reader.losses() == {"vae": [(10, 1.0)]}


def test_values_that_make_no_sense_are_left_out(run: Path) -> None:
    with SummaryWriter(str(run)) as writer:
        writer.add_image("loss", np.zeros((3, 4, 4)), 30)
        # Tensors whose sizes and content do not agree, of every plugin.
        for plugin in ("scalars", "images", "text", "hparams", "histograms", "audio", "other"):
            summary = Summary()
            value = summary.value.add(tag=plugin)
            value.metadata.plugin_data.plugin_name = plugin
            value.tensor.dtype = 99
            value.tensor.tensor_shape.dim.add(size=2**40)
            writer._get_file_writer().add_summary(summary, 40)
        writer.add_scalar("loss", 2.0, 50)
    reader = Reader(run.parent)
    assert reader.losses() == {"vae": [(10, 1.0), (50, 2.0)]}
    for plugin in ("text", "hparams", "histograms", "other"):
        assert not ask(reader.provider, "read_tensors", plugin).get("vae", {}).get(plugin)


def test_linked_runs_are_shown_and_circles_end(run: Path, tmp_path: Path) -> None:
    log_loss(tmp_path / "elsewhere/dcgan", 10, 3.0)
    (run.parent / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(run.parent)
    losses = Reader(run.parent).losses()
    assert losses["more/dcgan"] == [(10, 3.0)]
    assert losses["vae"] == [(10, 1.0)]
    assert len(losses) <= 4


@pytest.mark.parametrize("kind", ["bad length", "huge length", "bad event"])
def test_what_precedes_damage_is_shown_and_other_runs_too(
    run: Path, tmp_path: Path, kind: str
) -> None:
    log_loss(run.parent / "dcgan", 10, 3.0)
    length = struct.pack("<Q", 2**62 if kind == "huge length" else 5)
    checksum = 1 if kind == "bad length" else masked_crc32c(length)
    with event_file(run).open("ab") as file:
        file.write(length + struct.pack("<I", checksum) + b"\xff" * 40)
    reader = Reader(run.parent)
    for _ in range(2):
        assert reader.losses() == {"vae": [(10, 1.0)], "dcgan": [(10, 3.0)]}


def test_a_run_that_goes_on_before_its_end_hides_what_it_repeats(run: Path) -> None:
    reader = Reader(run.parent)
    with RunLog(Folder.at(run), 10) as log:
        for step in (20, 30):
            log.scalars({"loss": 2.0}, Position(images_seen=step))
    assert reader.losses() == {"vae": [(10, 1.0), (20, 2.0), (30, 2.0)]}
    log_loss(run, 30, 3.0, 20)
    assert reader.losses() == {"vae": [(10, 1.0), (20, 2.0), (30, 3.0)]}


@pytest.mark.parametrize("way", ["replaced", "written over", "shorter", "deleted"])
def test_a_file_that_is_another_one_is_read_from_its_beginning(
    run: Path, tmp_path: Path, way: str
) -> None:
    log_loss(tmp_path / "new", 20, 2.0)
    reader, file = Reader(run.parent), event_file(run)
    if way == "shorter":
        log_loss(run, 30, 4.0, 10)
        one, two = sorted(run.glob("*tfevents*"))
        one.write_bytes(one.read_bytes() + two.read_bytes())
        two.unlink()
        assert reader.losses() == {"vae": [(10, 1.0), (30, 4.0)]}
    assert reader.losses()["vae"][0] == (10, 1.0)
    new = event_file(tmp_path / "new")
    if way == "replaced":
        os.replace(new, file)
    elif way in ("written over", "shorter"):
        file.write_bytes(new.read_bytes())
    else:
        file.unlink()
        assert reader.losses() == {}
        return
    assert reader.losses() == {"vae": [(20, 2.0)]}


def test_a_run_that_is_gone_is_forgotten(run: Path) -> None:
    reader = Reader(run.parent)
    reader.losses()
    Folder.at(run).delete()
    assert reader.losses() == {}
    assert reader.runs.began() == {}


def test_the_newest_runs_are_read_first(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, age in enumerate((300, 100, 200)):
        place = run.parent / f"run-{number}"
        log_loss(place, 10, 1.0)
        file = event_file(place)
        os.utime(file, (1e9 - age, 1e9 - age))
    seen: list[str] = []
    update = RunEvents.update

    def note(self: RunEvents, found: Any, lock: Any) -> None:
        seen.extend({os.path.basename(os.path.dirname(path)) for path in found})
        update(self, found, lock)

    monkeypatch.setattr(RunEvents, "update", note)
    reader = Reader(run.parent)
    reader.runs.update()
    assert seen == ["vae", "run-1", "run-2", "run-0"]
    # What has not changed is not read again.
    reader.runs.update()
    assert len(seen) == 4


def test_a_file_that_cannot_be_read_is_tried_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> Any:
        raise PermissionError(path)

    reader = Reader(run.parent)
    with monkeypatch.context() as patch:
        patch.setattr(events, "open_regular", fail)
        assert reader.losses() == {}
        assert reader.runs.began() == {"vae": None}
    assert reader.losses() == {"vae": [(10, 1.0)]}


def test_long_series_are_thinned_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_POINTS", 10)
    run, reader = tmp_path / "vae", Reader(tmp_path)
    with SummaryWriter(str(run)) as writer:
        for step in range(200):
            writer.add_scalar("loss", float(step), step)
            if step % 13 == 0 or step == 199:
                writer.flush()
                [points] = reader.losses().values()
                steps = [at for at, _ in points]
                assert [value for _, value in points] == steps
                assert len(steps) <= 10
                assert (steps[0], steps[-1]) == (0, step)
                # All the same but for the last one, and no wider than they must be.
                gaps = {b - a for a, b in itertools.pairwise(steps[:-1])}
                assert len(gaps) <= 1
                assert all(gap <= max(1, 4 * step / 10) for gap in gaps)


def test_of_many_points_the_last_is_shown() -> None:
    assert list(shown(3, 5)) == [0, 1, 2]
    assert list(shown(100, 0)) == []
    assert list(shown(100, 1)) == [99]
    assert list(shown(1001, 101)) == list(range(0, 1001, 10))


def test_pictures_that_are_gone_and_names_of_none_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "vae"
    with RunLog(Folder.at(run), 0) as log:
        log.picture("samples", np.zeros((24, 40, 3), np.uint8), 1)
    reader = Reader(tmp_path)
    reader.runs.update()
    [datum] = ask(reader.provider, "read_blob_sequences", "images")["vae"]["samples"]
    key = datum.values[2].blob_key
    assert reader.provider.read_blob(blob_key=key).startswith(b"\x89PNG")
    for wrong in (("other", "samples", 1, 0), ("vae", "a", 1, 0), ("vae", "samples", 2, 0)):
        with pytest.raises(errors.NotFoundError):
            reader.provider.read_blob(blob_key=provider_module._key(*wrong))
    with pytest.raises(errors.NotFoundError):
        reader.provider.read_blob(blob_key=provider_module._key("vae", "samples", 1, 3))
    event_file(run).unlink()
    with pytest.raises(errors.NotFoundError):
        reader.provider.read_blob(blob_key=key)
    for garbage in ("", "é", "W10=", "x" * 2000):
        with pytest.raises(errors.InvalidArgumentError):
            reader.provider.read_blob(blob_key=garbage)
