"""Credentials in URIs are refused, and what messages show of a URI holds none."""

import json
from pathlib import Path

import pytest
from helpers import fails, run_script, save_run

import raygen
from raygen.config.run import PRESETS, RunConfig
from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.core.uris import check_uri, names_host, without_keys
from raygen.training.run import CONFIG

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfi"
WITH_KEYS = [
    f"s3://AKIAKEY:{SECRET}@bucket/x",
    f"S3://AKIAKEY:{SECRET.replace('/', '%2F')}@bucket/x",
    f"s3://AKIAKEY%3A{SECRET.replace('/', '')}@bucket/x",
    f"s3://{SECRET.replace('/', '')}@bucket/x",
    f"s3://AKIAKEY:{SECRET.replace('/', '')}/bucket/x",
    f"s3:/AKIAKEY:{SECRET}@bucket/x",
    f"s3:AKIAKEY:{SECRET}@bucket/x",
    f"s3://bucket/x?access_key=AKIAKEY&secret_key={SECRET}",
    f"s3://bucket/x?region=eu-central-1&session_token={SECRET}",
    f"s3://bucket/x?secret%5Fkey={SECRET}",
    f"s3://bucket/x?{SECRET}",
    f"s3://bucket/x?SECRET_KEY={SECRET}",
    f"s3://bucket/x y?secret_key={SECRET}",
    f"s3://bucket/x?endpoint_override=http://me:{SECRET}@host",
    f"s3://bucket/x?endpoint_override=http://me:{SECRET}%40host",
    f"gs://{SECRET.replace('/', '')}@bucket/x",
    f"gs://bucket/x?json_credentials={SECRET}",
    f"gcs://bucket/x?access_token={SECRET}",
    f"abfs://account:{SECRET}@container/x",
    f"abfss://account:{SECRET.replace('/', '')}@container/x",
    f"abfss://container@account.dfs.core.windows.net/x?sv=2024-01-01&sig={SECRET}",
    f"abfs://container@account.dfs.core.windows.net/x?client_id=a&client_secret={SECRET}",
    f"hdfs://me:{SECRET}@host:9000/x",
    f"https://me:{SECRET}@host/x",
    f"ftp://host/x?token={SECRET}",
    f"file://me:{SECRET}@host/x",
]
WITHOUT = [
    "runs",
    "/a/b@c:d",
    "~/x?y=z",
    "a=b/c",
    "s3://bucket",
    "s3://bucket/a:b@c/größe 1",
    "s3://bucket/x?scheme=http&endpoint_override=127.0.0.1:9000&region=us-east-1",
    "gs://anonymous@bucket/x",
    "gs://bucket/x?retry_limit_seconds=3",
    "abfss://container@account.dfs.core.windows.net/x?enable_tls=false",
    "abfs://container@127.0.0.1:10000/x",
    "hdfs://me@host:9000/x?replication=1",
    "hdfs://[::1]:9000/x",
    "file:///a/b",
]


def pieces(text: str) -> list[str]:
    """A secret, and what is left of it where a URI is cut at its slash."""
    return [piece for piece in (SECRET, *SECRET.split("/")) if piece in text]


@pytest.mark.parametrize("uri", WITH_KEYS)
def test_a_uri_with_keys_is_refused_without_repeating_them(uri: str) -> None:
    for use in (Folder.at, check_uri):
        with pytest.raises(UserError) as refused:
            use(uri)
        text = str(refused.value)
        assert not pieces(text)
        assert "\n" not in text
        if uri.startswith("s3://"):
            assert "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN" in text
    assert not pieces(without_keys(uri)) or "://" not in uri


@pytest.mark.parametrize("uri", WITHOUT)
def test_other_places_are_taken_and_shown_as_they_are(uri: str) -> None:
    check_uri(uri)
    assert without_keys(uri) == uri


def test_what_is_shown_says_which_place_is_meant() -> None:
    assert without_keys(f"s3://AKIAKEY:{SECRET}@bucket/a/b?region=eu-central-1&secret_key=x") == (
        "s3://bucket/a/b?region=eu-central-1"
    )
    assert without_keys(f"s3://me@AKIAKEY:{SECRET}") == "s3://..."


@pytest.mark.parametrize(
    ("uri", "names"),
    [
        ("s3://bucket/x", False),
        ("s3://bucket/x?region=eu-central-1", False),
        ("s3://bucket/x?endpoint_override=evil.example", True),
        ("gs://bucket/x?endpoint_override=evil.example", True),
        ("abfs://container@account.dfs.core.windows.net/x", False),
        ("abfs://container@evil.example/x", True),
        ("abfs://c@a.dfs.core.windows.net/x?blob_storage_authority=evil.example", True),
        ("hdfs://evil.example/x", True),
        ("data/faces", False),
        ("file:///data/faces", False),
    ],
)
def test_a_uri_may_say_whom_to_ask(uri: str, names: bool) -> None:
    assert names_host(uri) == names


@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        ("train", ("--data", "URI")),
        ("train", ("--data=URI",)),
        ("train", ("--storage", "URI", "--run-name", "x")),
        ("train", ("--config", "URI")),
        # Mistakes that come before any place is opened.
        ("train", ("--dta", "URI")),
        ("train", ("--steps", "URI")),
        ("train", ("URI",)),
        ("train", ("--batch-size", "0", "--data", "URI")),
        ("tune", ("--data", "URI", "--space", "nowhere.json")),
        ("tune", ("--storage", "URI", "--resume")),
        ("prepare", ("folder", "--images", "URI", "--out", "out")),
        ("prepare", ("folder", "--images", "nowhere", "--out", "URI")),
        ("prepare", ("show", "URI")),
        ("prepare", ("URI",)),
        ("sample", ("URI",)),
        ("sample", ("nowhere", "--reconstruct", "URI")),
        ("export", ("nowhere", "--out", "URI")),
        ("watch", ("--storage", "URI")),
        ("watch", ("--port", "URI")),
        ("bench", ("sweep", "--storage", "URI")),
    ],
)
def test_no_job_repeats_keys(
    job: str,
    arguments: tuple[str, ...],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in (WITH_KEYS[0], WITH_KEYS[5], WITH_KEYS[7]):
        assert run_script(job, *(word.replace("URI", uri) for word in arguments)) == 2
        captured = capfd.readouterr()
        assert not pieces(captured.out + captured.err)
        [line] = captured.err.splitlines()
        assert line.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_keys_in_a_file_of_options_are_refused_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for values in (
        {"data": WITH_KEYS[7]},
        {"size": ["32", WITH_KEYS[0]]},
        {"x": {"y": WITH_KEYS[3]}},
    ):
        (tmp_path / "options.json").write_text(json.dumps(values))
        for job in (("train",), ("tune",), ("sample",), ("prepare", "folder"), ("train", "--help")):
            line = fails(capsys, *job, "--config", tmp_path / "options.json")
            assert not pieces(line)
            assert "options.json: s3://" in line
            assert "AWS_SECRET_ACCESS_KEY" in line


def test_keys_that_an_older_run_was_given_are_not_repeated(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = tmp_path / "runs/old"
    save_run(run, "vae-celeba")
    values = json.loads((run / CONFIG).read_text()) | {"data": WITH_KEYS[7]}
    (run / CONFIG).write_text(json.dumps(values))
    assert RunConfig.from_json(values, "old").data == "s3://bucket/x"
    assert not pieces(repr(raygen.load(str(run)).config))
    assert not pieces(fails(capsys, "sample", run, "--attribute", "Smiling"))
    assert run_script("sample", run, "-n", "1", "--out", tmp_path / "out.png") == 0
    assert run_script("export", run, "--out", tmp_path / "export") == 0
    captured = capsys.readouterr()
    assert not pieces(captured.out + captured.err)
    written = [file.read_bytes() for file in (tmp_path / "export").iterdir()]
    assert not any(pieces(data.decode("latin-1")) for data in written)
    assert PRESETS["vae-celeba"].data == "drawn"
