"""A run's folder, which holds its options, checkpoints, pictures, events and summary."""

import re
from dataclasses import dataclass, replace
from typing import Any

from raygen.cluster.lease import Fence
from raygen.config.fields import option
from raygen.config.run import OLD_OPTIONS, PRESETS, RESUMABLE_CHANGES, RunConfig
from raygen.core import marker
from raygen.core.checked import bare
from raygen.core.errors import UserError
from raygen.core.marker import Marker
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.training import checkpoint_index

CONFIG = "config.json"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
REJECTED = "rejected.json"
"""The images that could not be read, where a run or sweep reads the originals."""
OWN = re.compile(
    r"config\.json|summary\.json|rejected\.json|metrics(-\d+)?\.jsonl|trial\.json|checkpoints|samples|export|"
    r"evaluation|evaluation\.json|evaluations\.jsonl|"
    r"projector|projector_config\.pbtxt|events\.out\.tfevents\..*|\.ray-.*"
)
"""Matches the names that raygen writes into a run's folder. All others are the user's."""


@dataclass(frozen=True)
class RunFolder:
    """`<storage>/<run-name>/`.

    Attributes: fence: lets writers check that the job still owns the run.
    """

    folder: Folder
    fence: Fence | None = None

    @staticmethod
    def at(storage: str, run_name: str) -> "RunFolder":
        """Raises: UserError if the name cannot be a folder's."""
        if not re.fullmatch(r"[\w][\w.\-]*", run_name):
            raise UserError(
                f"--run-name {run_name!r}: must be letters, digits, '.', '_' and '-', "
                "and begin with a letter or digit"
            )
        return RunFolder(Folder.at(storage).join(run_name))

    def patient(self, seconds: float) -> "RunFolder":
        """The same run, retrying for so many seconds during outages of its storage."""
        return replace(self, folder=self.folder.patient(seconds))

    @property
    def checkpoints(self) -> Folder:
        return self.folder.join(CHECKPOINTS)

    @property
    def samples(self) -> Folder:
        return self.folder.join("samples")

    def latest_checkpoint(self) -> Folder | None:
        return checkpoint_index.latest(self.checkpoints)

    def position(self) -> Position:
        """The position at which the run would go on."""
        latest = self.latest_checkpoint()
        if latest is None:
            return Position()
        return checkpoint_index.read_position(latest)

    def dataset(self) -> str:
        """Fingerprint of the dataset that the run was trained on; "" if it is not known yet."""
        latest = self.latest_checkpoint()
        return checkpoint_index.read_state(latest)["about"].get("dataset", "") if latest else ""

    def check_dataset(self, data: str, fingerprint: str) -> None:
        """Check that the run, if it has begun, was trained on this dataset.

        Raises: UserError if it was another one.
        """
        if self.latest_checkpoint() and self.dataset() != fingerprint:
            raise UserError(
                f"--data {data}: is not the dataset that the run in {self.folder.uri} was trained "
                "on; use that one, another --run-name for a new run, or --restart"
            )

    def check(self, config: RunConfig, restart: bool) -> None:
        """Check that the folder is free, or that the run in it is this one, or is to be deleted.

        Raises: UserError if the run in the folder has other options, or the folder holds
            something else.
        """
        known = self.marker()
        if known is None:
            if inside := marker.contents(self.folder):
                raise UserError(
                    f"--run-name: {self.folder.uri} exists and holds no run of raygen's "
                    f"({inside[0]}{', ...' if inside[1:] else ''}), so nothing in it is touched; "
                    "choose another name"
                )
        elif known.raygen != "run":
            raise UserError(
                f"--run-name: {self.folder.uri} holds a {known.raygen}; choose another name"
            )
        elif not known.deleting and not restart and self.latest_checkpoint():
            # Before the first checkpoint, other options may still replace the saved ones.
            self._check_same(config)

    def resumed(self, config: RunConfig, restart: bool) -> RunConfig:
        """The options with which a run goes on, if one has begun in the folder.

        Those that are left to a default keep the run's values, as the version that began it may
        have had another default.

        Raises: UserError if its options cannot be read.
        """
        known = self.marker()
        if known is None or known.raygen != "run" or known.deleting or restart:
            return config
        if not self.latest_checkpoint():
            return config
        where = self.folder.join(CONFIG).uri
        saved = RunConfig.from_json(self.saved_config(), where).to_json()
        kept = {name: saved[name] for name in config.model.left_open if name in saved}
        return config.updated(kept, where)

    def marker(self) -> Marker | None:
        """The folder's marker, inferred for runs of earlier versions, which wrote none."""
        found = marker.read(self.folder)
        if found is None and self.folder.exists(CONFIG):
            try:
                values = self.folder.read_json(CONFIG)
                RunConfig.from_json(values, self.folder.uri)
                if values.keys() >= OLD_OPTIONS:
                    return Marker("run")
            except (UserError, TypeError, AttributeError, ValueError):
                return None
        return found

    def open(self, config: RunConfig, restart: bool) -> None:
        """Create the folder for a run, after the same checks, and clean up after killed jobs.

        Only the run's owner may call this.

        Raises: UserError, also if it cannot be written.
        """
        self.check(config, restart)
        self.check_owner()
        self.folder.check_writable()
        if self.begins_anew(restart):
            marker.delete_contents(self.folder, "run", OWN)
        self.folder.delete_temporary()
        self.note(config)
        checkpoint_index.clean(self.checkpoints)

    def begins_anew(self, restart: bool) -> bool:
        """Whether the folder's content is to be deleted.

        A deletion that --restart began is finished even if the next command lacks that option.
        """
        found = marker.read(self.folder)
        return restart or bool(found and found.deleting)

    def note(self, config: RunConfig) -> None:
        """Mark the folder as a run's, and save its options, those that are left to defaults too."""
        marker.write(self.folder, "run")
        self.folder.write_json(CONFIG, config.explicit.to_json())

    def check_owner(self) -> None:
        """Raises: RunError if the job that this process works for has lost the run to another."""
        if self.fence:
            self.fence.check()

    def saved_config(self) -> dict[str, Any]:
        """The options by name that the run was started with, from `config.json`.

        Raises: UserError if the file cannot be read or holds no options.
        """
        advice = "restore the file from a backup, or begin another run"
        try:
            values = self.folder.read_checked(CONFIG, UserError, advice)
        except FileNotFoundError:
            raise UserError(f"{self.folder.join(CONFIG).uri}: is missing; {advice}") from None
        preset = values.optional("preset")
        if preset and not values.optional("family"):
            # Earlier versions saved only the preset.
            preset.choice(PRESETS)
        options: dict[str, Any] = values.value
        return options

    def _check_same(self, config: RunConfig) -> None:
        may_change, before = RESUMABLE_CHANGES, self.saved_config()
        saved = RunConfig.from_json(before, self.folder.join(CONFIG).uri)
        known = saved.explicit.to_json()
        # Runs of older versions lack the newer options. They noted the preset in place of family
        # and size, and what some options were by default is known.
        before = {name: known[name] for name in {*before, "family", "size", *saved.model.own}}
        if before.get("preset") not in PRESETS:
            # The preset may have been renamed since; its options are compared instead.
            may_change |= {"preset"}
        if config.is_two_phase:
            # Where the second phase begins follows from the length.
            may_change -= {"steps", "epochs"}
        for name, value in config.explicit.to_json().items():
            if name not in may_change and before.get(name, value) != value:
                raise UserError(
                    f"{option(name)} {value}: the run in {self.folder.uri} has "
                    f"{bare(before[name])}; use that to resume it, another --run-name for a new "
                    "run, or --restart to start this one over"
                )
