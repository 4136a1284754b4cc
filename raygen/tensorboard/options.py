"""What TensorBoard shows, and where it listens."""

from dataclasses import dataclass

from raygen.config.fields import ConfigFile, require, require_at_least


@dataclass(frozen=True)
class WatchOptions:
    """What TensorBoard shows, and where it listens."""

    storage: str = "runs"
    """Folder or URI that holds runs and sweeps. May also be a single one of them."""
    host: str = "127.0.0.1"
    """Address to listen on. Everyone who reaches it sees everything: leave it at this machine's
    own, and reach it through a tunnel (ssh -L)."""
    port: int = 6006
    """Port to listen on; 0: any that is free."""
    reload_seconds: int = 10
    """How often to look for what is new."""
    config: ConfigFile = ""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "reload_seconds", most=24 * 60 * 60)
        require(0 <= self.port < 2**16, "--port", self.port, "be from 0 to 65535")
