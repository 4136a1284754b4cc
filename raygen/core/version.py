"""The version of raygen, in a module of its own so that importing it loads nothing else."""

VERSION = "0.1.0"
