"""A run's folder: where its options, checkpoints, pictures, events and summary lie."""

import re
from dataclasses import dataclass, replace
from typing import Any

from raygen.cluster.lease import Fence
from raygen.config.fields import option
from raygen.config.run import PRESETS, RESUMABLE_CHANGES, RunConfig
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
OWN = re.compile(
    r"config\.json|summary\.json|metrics\.jsonl|trial\.json|checkpoints|samples|export|"
    r"projector|projector_config\.pbtxt|events\.out\.tfevents\..*|\.ray-.*"
)
"""What raygen writes into a run's folder. Whatever else lies there is the user's."""
OLD_OPTIONS = frozenset(("preset", "data", "batch_size", "steps", "seed", "width", "keep"))
"""Options that every run's config.json has, and hardly any other program's."""


@dataclass(frozen=True)
class RunFolder:
    """`<storage>/<run-name>/`.

    Attributes: fence: what proves that the job still owns the run, for those that write to it.
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
        """The same run, for a job that outlasts its storage's outages."""
        return replace(self, folder=self.folder.patient(seconds))

    @property
    def checkpoints(self) -> Folder:
        return self.folder.join(CHECKPOINTS)

    @property
    def samples(self) -> Folder:
        return self.folder.join("samples")

    def latest_checkpoint(self) -> Folder | None:
        step = checkpoint_index.latest_step(self.checkpoints)
        return None if step is None else checkpoint_index.at_step(self.checkpoints, step)

    def position(self) -> Position:
        """Where the run would go on."""
        latest = self.latest_checkpoint()
        if latest is None:
            return Position()
        return checkpoint_index.read_position(latest)

    def check_dataset(self, data: str, fingerprint: str) -> None:
        """Check that the run, if it has begun, was trained on this dataset.

        Raises: UserError if it was another one.
        """
        latest = self.latest_checkpoint()
        if latest and checkpoint_index.read_state(latest)["about"].get("dataset") != fingerprint:
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
            # Before the first checkpoint nothing has been learnt with the options noted there.
            self._check_same(config)

    def marker(self) -> Marker | None:
        """What the folder is, also if an earlier version made it, which left no marker."""
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
        """Make the folder for a run, after the same checks, and clean up after killed jobs.

        For the run's only owner.

        Raises: UserError, also if it cannot be written.
        """
        self.check(config, restart)
        self.check_owner()
        self.folder.check_writable()
        if self.begins_anew(restart):
            marker.delete_contents(self.folder, "run", OWN)
        self.note(config)
        checkpoint_index.clean(self.checkpoints)

    def begins_anew(self, restart: bool) -> bool:
        """Whether what the folder holds is to be deleted.

        What --restart began to delete is, though the next command may lack it.
        """
        found = marker.read(self.folder)
        return restart or bool(found and found.deleting)

    def note(self, config: RunConfig) -> None:
        """Make this a run's folder, of these options."""
        marker.write(self.folder, "run")
        self.folder.write_json(CONFIG, config.to_json())

    def check_owner(self) -> None:
        """Raises: RunError if the job that this process works for has lost the run to another."""
        if self.fence:
            self.fence.check()

    def saved_config(self) -> dict[str, Any]:
        """The options that the run was started with, by name, as `config.json` has them.

        Raises: UserError if it cannot be read or holds no options.
        """
        advice = "restore the file from a backup, or begin another run"
        try:
            values = self.folder.read_checked(CONFIG, UserError, advice)
        except FileNotFoundError:
            raise UserError(f"{self.folder.join(CONFIG).uri}: is missing; {advice}") from None
        preset = values.optional("preset")
        if preset and not values.optional("family"):
            # Earlier versions noted the preset alone.
            preset.choice(PRESETS)
        options: dict[str, Any] = values.value
        return options

    def _check_same(self, config: RunConfig) -> None:
        before = self.saved_config()
        may_change = RESUMABLE_CHANGES
        # Earlier versions noted the preset in their place.
        known = RunConfig.from_json(before, self.folder.join(CONFIG).uri).to_json()
        before = {name: known[name] for name in ("family", "size")} | before
        if before.get("preset") not in PRESETS:
            # It has another name by now; what it stood for is compared.
            may_change |= {"preset"}
        if config.is_two_phase:
            # Where the second phase begins follows from the length.
            may_change -= {"steps", "epochs"}
        for name, value in config.to_json().items():
            # Runs of older versions lack the newer options.
            if name not in may_change and before.get(name, value) != value:
                raise UserError(
                    f"{option(name)} {value}: the run in {self.folder.uri} has "
                    f"{bare(before[name])}; use that to resume it, another --run-name for a new "
                    "run, or --restart to start this one over"
                )
