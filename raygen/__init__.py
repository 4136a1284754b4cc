"""raygen: train, tune and compare classic deep generative image models on Ray."""

import os

# `uv run` would otherwise make Ray start every worker through `uv run` in a second environment
# that it installs from a copy of the working directory. Ray reads this while it is imported, so
# it has to be set before anything in raygen imports Ray.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

__version__ = "0.1.0"
