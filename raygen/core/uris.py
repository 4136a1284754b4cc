"""Checks on URIs: keys in one would be printed, logged, and kept in a run's files."""

import re
from urllib.parse import unquote

from raygen.core.errors import UserError

OPTIONS = {
    "s3": {
        "region",
        "scheme",
        "endpoint_override",
        "allow_bucket_creation",
        "allow_bucket_deletion",
        "allow_delayed_open",
        "tls_ca_file_path",
        "tls_ca_dir_path",
        "tls_verify_certificates",
        "smart_defaults",
    },
    "gs": {"scheme", "endpoint_override", "retry_limit_seconds", "project_id"},
    "abfs": {
        "blob_storage_authority",
        "dfs_storage_authority",
        "enable_tls",
        "background_writes",
        "credential_kind",
        "tenant_id",
        "client_id",
    },
    "hdfs": {"user", "replication", "buffer_size", "default_block_size"},
}
"""Options of pyarrow's URIs that hold no secret. All others are refused, because any option of an
Azure URI may be part of a signature."""
SAME = {"gcs": "gs", "abfss": "abfs", "viewfs": "hdfs"}
"""Aliases of schemes, and the scheme that each stands for."""
BUCKETS = ("s3", "gs")
"""Schemes whose URIs begin with a bucket instead of a host."""
HOST_OPTIONS = {"endpoint_override", "blob_storage_authority", "dfs_storage_authority"}
"""Options that select the host, and so decide who receives the user's credentials."""
REMEDY = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
}
"""How to pass credentials to pyarrow through the environment, by scheme."""
URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?]*)(?:\?(.*))?", re.DOTALL)
BEGINS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
MISSPELT = re.compile(r"(?:.*=)?(s3|gs|gcs|abfss?|hdfs):(?!//)", re.IGNORECASE)
"""Matches URIs with missing slashes, which would otherwise create a local folder of that name."""


def check_uri(text: str, where: str = "") -> None:
    """Check that a text, such as a command-line argument, holds no URI with credentials.

    Args: where: what to name in errors before the URI, e.g. the file that contains it.
    Raises: UserError, whose message does not repeat the credentials.
    """
    if wrong := MISSPELT.match(text):
        raise UserError(
            f"{where}{wrong[1]}: is not followed by //; write the URI as {wrong[1]}://..."
        )
    begin = BEGINS.search(text)
    match = URI.fullmatch(text, begin.start()) if begin else None
    if match is None:
        return
    kind, authority, _, options = _parts(match)
    said = f"{where}{without_keys(match[0])}"
    remedy = (
        "keys in a URI would be printed, logged and kept with the run: leave them out, and set "
        f"{REMEDY.get(kind, 'the environment variables of its store')}"
    )
    if not _is_place(kind, authority):
        raise UserError(f"{said}: holds credentials before its place; {remedy}")
    known = OPTIONS.get(kind, set())
    for name, value in options:
        if name not in known:
            # The option's name is not shown: a secret that contains & is split into several.
            takes = f" ({', '.join(sorted(known))})" if known else ""
            raise UserError(f"{said}: has an option that URIs may not have here{takes}; {remedy}")
        if "@" in unquote(value):
            raise UserError(f"{said}: its option {name} holds credentials; {remedy}")


def check_all(values: object, where: str) -> None:
    """Check all texts in a JSON value. Raises: UserError that does not repeat credentials."""
    if isinstance(values, str):
        check_uri(values, where)
    elif isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            check_all(value, where)


def without_keys(uri: str) -> str:
    """Strip from a URI everything that may be secret. Local paths stay as they are."""
    match = URI.fullmatch(uri)
    if match is None:
        return uri
    kind, authority, path, options = _parts(match)
    if not _is_place(kind, authority):
        # A secret may contain /, so that its end looks like the path.
        _, mark, place = f"{authority}{path}".rpartition("@")
        authority, slash, path = place.partition("/")
        path = slash + path
        if not mark or not _is_place(kind, authority):
            authority, path = "...", ""
    known = OPTIONS.get(kind, set())
    kept = [
        f"{name}={value}" for name, value in options if name in known and "@" not in unquote(value)
    ]
    return f"{match[1]}://{authority}{path}" + ("?" + "&".join(kept) if kept else "")


def names_host(uri: str) -> bool:
    """Whether a URI itself selects the host, and so decides who receives the credentials."""
    match = URI.fullmatch(uri)
    if match is None:
        return False
    kind, authority, _, options = _parts(match)
    of_azure = kind == "abfs" and authority.endswith(".core.windows.net")
    own = kind not in (*BUCKETS, "file") and not of_azure
    return own or any(name in HOST_OPTIONS for name, _ in options)


def _parts(match: re.Match[str]) -> tuple[str, str, str, list[tuple[str, str]]]:
    """Split into the scheme, user and host or bucket, path, and options as written."""
    scheme = match[1].lower()
    pairs = [pair.partition("=") for pair in (match[4] or "").split("&") if pair]
    options = [(name, value) for name, _, value in pairs]
    return SAME.get(scheme, scheme), match[2], match[3], options


def _is_place(kind: str, authority: str) -> bool:
    """Whether a URI's authority is a bucket, or a host without credentials."""
    if kind == "gs":
        authority = authority.removeprefix("anonymous@")
    if kind in BUCKETS:
        return not re.search("[:@%]", authority)
    # A user name, or an Azure container's name, is not a secret.
    return bool(re.fullmatch(r"([^:@%]*@)?(\[[0-9A-Fa-f:.]+\]|[^:@%]*)(:\d{1,5})?", authority))
