"""A run's folder: where its options, checkpoints, pictures, events and summary lie."""

import re
from dataclasses import dataclass
from typing import Any

from raygen.config import RESUMABLE_CHANGES, RunConfig
from raygen.errors import UserError
from raygen.options import option
from raygen.storage import Folder
from raygen.training import checkpoint
from raygen.training.control import Position

CONFIG = "config.json"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class RunFolder:
    """`<storage>/<run-name>/`."""

    folder: Folder

    @staticmethod
    def at(storage: str, run_name: str) -> "RunFolder":
        """Raises: UserError if the name cannot be a folder's."""
        if not re.fullmatch(r"[\w][\w.\-]*", run_name):
            raise UserError(
                f"--run-name {run_name!r}: must be letters, digits, '.', '_' and '-', "
                "and begin with a letter or digit"
            )
        return RunFolder(Folder.at(storage).join(run_name))

    @property
    def checkpoints(self) -> Folder:
        return self.folder.join("checkpoints")

    @property
    def samples(self) -> Folder:
        return self.folder.join("samples")

    def latest_checkpoint(self) -> Folder | None:
        step = checkpoint.latest_step(self.checkpoints)
        return None if step is None else checkpoint.at_step(self.checkpoints, step)

    def position(self) -> Position:
        """Where the run would go on."""
        latest = self.latest_checkpoint()
        if latest is None:
            return Position()
        return checkpoint.read_position(latest)

    def check_dataset(self, data: str, fingerprint: str) -> None:
        """Check that the run, if it has begun, was trained on this dataset.

        Raises: UserError if it was another one.
        """
        latest = self.latest_checkpoint()
        if latest and checkpoint.read_state(latest)["about"]["dataset"] != fingerprint:
            raise UserError(
                f"--data {data}: is not the dataset that the run in {self.folder.uri} was trained "
                "on; use that one, another --run-name for a new run, or --restart"
            )

    def check(self, config: RunConfig, restart: bool) -> None:
        """Check that the folder is free, or that the run in it is this one, or is to be deleted.

        Raises: UserError if the run in the folder has other options, or the folder holds
            something else.
        """
        if self.folder.exists(CONFIG):
            # Before the first checkpoint nothing has been learnt with the options noted there.
            if not restart and self.latest_checkpoint():
                self._check_same(config)
        elif self.folder.names():
            if restart:
                raise UserError(
                    f"--restart: {self.folder.uri} holds no {CONFIG}, so it is no run of raygen's "
                    "and is not deleted; choose another --run-name"
                )
            raise UserError(
                f"--run-name: {self.folder.uri} exists and holds no run; choose another name"
            )

    def open(self, config: RunConfig, restart: bool) -> None:
        """Make the folder for a run, after the same checks.

        Raises: UserError, also if it cannot be written.
        """
        self.check(config, restart)
        if restart:
            self.folder.delete()
        self.folder.check_writable()
        self.folder.write_json(CONFIG, config.to_json())

    def _check_same(self, config: RunConfig) -> None:
        before: dict[str, Any] = self.folder.read_json(CONFIG)
        may_change = RESUMABLE_CHANGES
        if config.is_two_phase:
            # Where the second phase begins follows from the length.
            may_change -= {"steps", "epochs"}
        for name, value in config.to_json().items():
            # Runs of older versions lack the newer options.
            if name not in may_change and before.get(name, value) != value:
                raise UserError(
                    f"{option(name)} {value}: the run in {self.folder.uri} has "
                    f"{before.get(name)}; use that to resume it, another --run-name for a new "
                    "run, or --restart to start this one over"
                )
