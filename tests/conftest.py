"""One Ray for the whole test session: starting it takes longer than most tests."""

import uuid
from collections.abc import Iterator

import pytest

from raygen.storage import Folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """Ray on this machine, with the CPUs that two training workers and the stream share.

    Yields: its address, for jobs that are started as processes of their own.
    """
    import ray

    from raygen import cluster

    with cluster.connected():
        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server on this machine. Yields: the options that lead a URI to it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    ).create_bucket(Bucket="bucket")
    yield f"scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    server.stop()


@pytest.fixture
def s3(s3_server: str) -> Folder:
    """An empty folder on the S3 server, of the test's own."""
    return Folder.at(f"s3://key:secret@bucket/größe {uuid.uuid4().hex}?{s3_server}")
