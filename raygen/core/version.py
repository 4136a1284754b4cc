"""This raygen's version, also for what the package's front imports."""

VERSION = "0.1.0"
