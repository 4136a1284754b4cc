"""Records of runs for TensorBoard's HParams page: of trainings, and of a sweep's trials.

Each run has a record from its start, so that running and killed runs are on the page; metrics are
read from the run's scalars. A sweep also records its search space. Without a sweep, TensorBoard
makes a column of each option that runs have.

TensorBoard reads a run's event files in the order of their names and never returns to an earlier
one. The record of the start is therefore named to be read before the scalars, and that of the end
after them.
"""

import os
import tempfile
import time
from collections.abc import Mapping

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from torch.utils.tensorboard import FileWriter

from raygen.config.domains import Choice, Space, Value
from raygen.core.storage import Folder

FIRST, LAST = "events.out.tfevents.0000000000.hparams", "events.out.tfevents.9999999999.hparams"


def write_experiment(sweep: Folder, space: Space, metrics: Mapping[str, str]) -> None:
    """Write a sweep's search space and metrics. Args: metrics: display names by scalar tag."""
    hparams = [
        summary_v2.HParam(name, summary_v2.Discrete([str(v) for v in domain.values]))
        if isinstance(domain, Choice)
        else summary_v2.HParam(name, summary_v2.RealInterval(float(domain.low), float(domain.high)))
        for name, domain in space.items()
    ]
    shown = [summary_v2.Metric(tag, display_name=name) for tag, name in metrics.items()]
    experiment = summary_v2.hparams_config_pb(hparams, shown)
    _write(sweep, FIRST, experiment)


def write_start(
    run: Folder, name: str, space: Space, values: Mapping[str, Value], began_at: float
) -> None:
    """Record that a run begins, or goes on.

    Args:
        run: the run's folder.
        name: identifies the run within its storage.
        space: the search space of its sweep; empty for a training.
        values: values of its options.
        began_at: Unix time in seconds.
    """
    # A resumed run may have a record of an earlier end.
    forget_end(run)
    # Choices are shown as text, which the page can filter by.
    texts = {n: str(v) if isinstance(space.get(n), Choice) else v for n, v in values.items()}
    _write(run, FIRST, summary_v2.hparams_pb(texts, trial_id=name, start_time_secs=began_at))


def write_end(run: Folder, succeeded: bool) -> None:
    """Record that a run has ended and will not go on by itself. Args: run: its folder."""
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    content = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    summary = Summary()
    summary.value.add(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(content),
        tensor=metadata.NULL_TENSOR,
    )
    _write(run, LAST, summary)


def forget_end(run: Folder) -> None:
    """Delete the record of a run's end, because it goes on. Args: run: its folder."""
    if run.exists(LAST):
        run.delete_file(LAST)


def _write(folder: Folder, name: str, summary: Summary) -> None:
    """Write an event file with one summary, atomically."""
    with tempfile.TemporaryDirectory() as place:
        writer = FileWriter(place)
        writer.add_summary(summary)
        writer.close()
        [file] = os.listdir(place)
        with open(os.path.join(place, file), "rb") as stream:
            folder.write_bytes(name, stream.read())
