"""Rendezvous of the workers of one machine, without a port that others could reach.

Ray Train lets torch listen on all interfaces, without authentication.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray.train.backend import BackendConfig
from ray.train.torch import TorchConfig
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)


class OneMachine(TorchConfig):
    """Config for workers on one machine, which meet in a file that only this user can read."""

    @property
    def backend_cls(self) -> type["MeetInFile"]:
        return MeetInFile


class MeetInFile(_TorchBackend):
    """Ray's own backend, except that the workers meet in a file."""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, OneMachine)
        self._folder = Path(tempfile.mkdtemp(prefix="raygen-workers-"))
        on_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        worker_group.execute(_set_torch_distributed_env_vars)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend="nccl" if on_gpus else "gloo",
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=(self._folder / "group").as_uri(),
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        try:
            super().on_shutdown(worker_group, backend_config)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


def torch_config(timeout_s: int) -> TorchConfig:
    """Choose the config that suits the Ray that this process is connected to.

    Args: timeout_s: how long a worker waits for the others, in seconds.
    """
    is_alone = ray.util.get_node_ip_address().startswith("127.")
    return (OneMachine if is_alone else TorchConfig)(timeout_s=timeout_s)
