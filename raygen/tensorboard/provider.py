"""What TensorBoard shows of a folder of runs, read by `raygen.tensorboard.events`."""

import base64
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard import errors
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_SCALAR,
    DATA_CLASS_TENSOR,
)
from tensorboard.data import provider
from tensorboard.data.ingester import DataIngester

from raygen.tensorboard.events import Damaged, Place, RunEvents, Series, parts_at

Found = Mapping[str, os.stat_result]
Datum = TypeVar("Datum")


def event_files(logdir: str) -> dict[str, dict[str, os.stat_result]]:
    """The event files of each run: by their paths, by the run's folder within `logdir`."""
    runs: dict[str, dict[str, os.stat_result]] = {}
    linked: set[str] = set()
    for folder, inner, names in os.walk(logdir, followlinks=True):
        for name in list(inner):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                # Links may lead round in a circle.
                if os.path.realpath(path) in linked:
                    inner.remove(name)
                linked.add(os.path.realpath(path))
        for name in names:
            if "tfevents" in name:
                path = os.path.join(folder, name)
                # It may have been deleted since it was listed.
                with suppress(OSError):
                    runs.setdefault(os.path.relpath(folder, logdir), {})[path] = os.stat(path)
    return runs


class Runs:
    """The runs of a folder, as far as they were read. Several threads may ask for them."""

    def __init__(self, logdir: str) -> None:
        self._logdir = logdir
        self._runs: dict[str, RunEvents] = {}
        self._states: dict[str, tuple[tuple[Any, ...], ...]] = {}
        self._lock = threading.Lock()

    def update(self) -> None:
        """Look for runs that are new, have grown or are gone; the newest ones are read first."""
        found = event_files(self._logdir)
        with self._lock:
            self._runs = {name: self._runs.get(name, RunEvents()) for name in found}
        self._states = {name: state for name, state in self._states.items() if name in found}
        for name in sorted(found, key=lambda name: _newest(found[name]), reverse=True):
            files = found[name]
            state = tuple((p, s.st_ino, s.st_size, s.st_mtime_ns) for p, s in files.items())
            if state == self._states.get(name):
                continue
            # A file may be deleted or made unreadable at any time; it is tried again.
            with suppress(OSError):
                self._update(name, files)
                self._states[name] = state

    def _update(self, name: str, files: Found) -> None:
        run = self._runs[name]
        if not run.is_in(files):
            # It was started over, or goes on before its end.
            run = RunEvents()
            with self._lock:
                self._runs[name] = run
        run.update(files, self._lock)

    def began(self) -> dict[str, float | None]:
        """When each run began, in Unix seconds; None: it was not read yet."""
        with self._lock:
            return {name: run.began_at for name, run in self._runs.items()}

    def read(
        self,
        make: Callable[[Series], Datum],
        plugin: str | None = None,
        kind: int | None = None,
        only: provider.RunTagFilter | None = None,
    ) -> dict[str, dict[str, Datum]]:
        """Call a function on time series, by run and tag.

        Args: plugin, kind, only: which ones; None: all.
        """
        runs, tags = (only.runs, only.tags) if only else (None, None)
        found: dict[str, dict[str, Datum]] = {}
        with self._lock:
            for name in self._runs if runs is None else runs & self._runs.keys():
                series = self._runs[name].series
                values = {
                    tag: make(series[tag])
                    for tag in (series if tags is None else tags & series.keys())
                    if plugin in (None, series[tag].plugin)
                    and kind in (None, series[tag].metadata.data_class)
                }
                if values:
                    found[name] = values
        return found


def _newest(files: Found) -> float:
    return max(state.st_mtime for state in files.values())


class RunsProvider(provider.DataProvider):  # type: ignore[misc]
    """Answers TensorBoard's questions. Methods are as documented there."""

    def __init__(self, runs: Runs, logdir: str) -> None:
        self._runs, self._logdir = runs, logdir

    def experiment_metadata(self, ctx: Any = None, *, experiment_id: str) -> Any:
        return provider.ExperimentMetadata(data_location=self._logdir)

    def list_plugins(self, ctx: Any = None, *, experiment_id: str) -> list[str]:
        known = self._runs.read(lambda series: series.plugin)
        return sorted({plugin for tags in known.values() for plugin in tags.values()})

    def list_runs(self, ctx: Any = None, *, experiment_id: str) -> list[Any]:
        return [provider.Run(name, name, at) for name, at in self._runs.began().items()]

    def list_scalars(
        self, ctx: Any = None, *, experiment_id: str, plugin_name: str, run_tag_filter: Any = None
    ) -> Any:
        def listed(series: Series) -> Any:
            return provider.ScalarTimeSeries(**_about(series))

        return self._runs.read(listed, plugin_name, DATA_CLASS_SCALAR, run_tag_filter)

    def read_scalars(
        self,
        ctx: Any = None,
        *,
        experiment_id: str,
        plugin_name: str,
        downsample: int,
        run_tag_filter: Any = None,
    ) -> Any:
        def points(series: Series) -> list[Any]:
            return [_scalar(series, k) for k in shown(len(series.steps), downsample)]

        return self._runs.read(points, plugin_name, DATA_CLASS_SCALAR, run_tag_filter)

    def read_last_scalars(
        self, ctx: Any = None, *, experiment_id: str, plugin_name: str, run_tag_filter: Any = None
    ) -> Any:
        def last(series: Series) -> Any:
            return _scalar(series, -1) if series.steps else None

        found = self._runs.read(last, plugin_name, DATA_CLASS_SCALAR, run_tag_filter)
        return {run: {tag: v for tag, v in tags.items() if v} for run, tags in found.items()}

    def list_tensors(
        self, ctx: Any = None, *, experiment_id: str, plugin_name: str, run_tag_filter: Any = None
    ) -> Any:
        def listed(series: Series) -> Any:
            return provider.TensorTimeSeries(**_about(series))

        return self._runs.read(listed, plugin_name, DATA_CLASS_TENSOR, run_tag_filter)

    def read_tensors(
        self,
        ctx: Any = None,
        *,
        experiment_id: str,
        plugin_name: str,
        downsample: int,
        run_tag_filter: Any = None,
    ) -> Any:
        def points(series: Series) -> list[Any]:
            return [
                provider.TensorDatum(series.steps[k], series.times[k], series.others[k])
                for k in shown(len(series.steps), downsample)
            ]

        return self._runs.read(points, plugin_name, DATA_CLASS_TENSOR, run_tag_filter)

    def list_blob_sequences(
        self, ctx: Any = None, *, experiment_id: str, plugin_name: str, run_tag_filter: Any = None
    ) -> Any:
        def listed(series: Series) -> Any:
            return provider.BlobSequenceTimeSeries(max_length=series.most, **_about(series))

        return self._runs.read(listed, plugin_name, DATA_CLASS_BLOB_SEQUENCE, run_tag_filter)

    def read_blob_sequences(
        self,
        ctx: Any = None,
        *,
        experiment_id: str,
        plugin_name: str,
        downsample: int,
        run_tag_filter: Any = None,
    ) -> Any:
        def points(series: Series) -> list[tuple[int, float, int]]:
            kept = shown(len(series.steps), downsample)
            return [(series.steps[k], series.times[k], series.most) for k in kept]

        found = self._runs.read(points, plugin_name, DATA_CLASS_BLOB_SEQUENCE, run_tag_filter)
        return {
            run: {
                tag: [_pictures(run, tag, step, at, count) for step, at, count in data]
                for tag, data in tags.items()
            }
            for run, tags in found.items()
        }

    def read_blob(self, ctx: Any = None, *, blob_key: str) -> bytes:
        run, tag, step, part = _parts(blob_key)

        def places(series: Series) -> dict[int, Place]:
            return dict(zip(series.steps, series.others, strict=True))

        only = provider.RunTagFilter([run], [tag])
        found = self._runs.read(places, None, DATA_CLASS_BLOB_SEQUENCE, only)
        try:
            return parts_at(found[run][tag][step], tag)[part]
        except (OSError, LookupError, Damaged, DecodeError, StopIteration) as error:
            raise errors.NotFoundError(f"no picture {tag} of {run} at {step}") from error


def shown(count: int, most: int) -> Iterator[int]:
    """Which of so many points to show: evenly spaced ones, the last among them, and the first."""
    if count <= most:
        yield from range(count)
    else:
        yield from np.linspace(count - 1, 0, most).round().astype(int)[::-1].tolist()


def _about(series: Series) -> dict[str, Any]:
    """What the lists tell of a series of any kind."""
    metadata = series.metadata
    return {
        "max_step": max(series.steps, default=0),
        "max_wall_time": max(series.times, default=0.0),
        "plugin_content": metadata.plugin_data.content,
        "description": metadata.summary_description,
        "display_name": metadata.display_name,
    }


def _scalar(series: Series, place: int) -> Any:
    return provider.ScalarDatum(series.steps[place], series.times[place], series.values[place])


def _pictures(run: str, tag: str, step: int, at: float, count: int) -> Any:
    keys = [_key(run, tag, step, part) for part in range(count)]
    return provider.BlobSequenceDatum(step, at, tuple(map(provider.BlobReference, keys)))


def _key(run: str, tag: str, step: int, part: int) -> str:
    """Name a picture in letters that a URL may hold."""
    return base64.urlsafe_b64encode(json.dumps([run, tag, step, part]).encode()).decode()


def _parts(key: str) -> tuple[str, str, int, int]:
    try:
        run, tag, step, part = json.loads(base64.urlsafe_b64decode(key))
        return str(run), str(tag), int(step), int(part)
    except (ValueError, TypeError, RecursionError) as error:
        raise errors.InvalidArgumentError("this names no picture") from error


class Ingester(DataIngester):  # type: ignore[misc]
    """Reads a folder's runs again and again, in a thread."""

    def __init__(self, logdir: str, seconds: int) -> None:
        self._runs, self._seconds = Runs(logdir), seconds
        self._provider = RunsProvider(self._runs, logdir)

    @property
    def data_provider(self) -> RunsProvider:
        return self._provider

    def start(self) -> None:
        threading.Thread(target=self._follow, name="Reloader", daemon=True).start()

    def _follow(self) -> None:
        while True:
            self._runs.update()
            time.sleep(self._seconds)
