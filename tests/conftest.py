"""One Ray for the whole test session: starting it takes longer than most tests."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """Ray on this machine, with the CPUs that two training workers and the stream share.

    Yields: its address, for jobs that are started as processes of their own.
    """
    import ray

    from raygen import cluster

    with cluster.connected():
        yield ray.get_runtime_context().gcs_address
