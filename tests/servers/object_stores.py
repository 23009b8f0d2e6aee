"""Real S3 servers for tests: SeaweedFS (honours everything), moto, and rclone (ignores conditions).

Each is started once a session, on loopback, in a temporary directory, and stopped by its pid. All
accept the same key pair, which the fixtures put into the environment as a user would.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.servers.ports import free_port, free_ports

START_SECONDS = 60
ACCESS_KEY = "drtooltestaccess"
SECRET_KEY = "drtool-test-secret-key"
REGION = "us-east-1"
SHARED_BUCKET = "drtool-shared"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server; its buckets are the tests' to make."""

    name: str
    endpoint: str

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for a proxy to sit in front of."""
        host, port = self.endpoint.removeprefix("http://").split(":")
        return host, int(port)

    def client(self) -> Any:  # boto3 makes its clients' classes at run time
        """boto3's client, for what the tests do behind drtool's back."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"max_attempts": 2},
                # PITFALLS 73: rclone sends the whole object's checksum with a range of it.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
            ),
        )

    def new_bucket(self) -> str:
        """A new empty bucket's name."""
        name = f"drtool-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def url(self, bucket: str, prefix: str = "", *, endpoint: str | None = None) -> str:
        """What a policy would say; `endpoint` of a proxy, if one is in between."""
        query = urlencode({"endpoint": endpoint or self.endpoint, "region": REGION}, safe=":/")
        return f"s3://{bucket}/{prefix}?{query}"

    def new_url(self, prefix: str = "main", *, endpoint: str | None = None) -> str:
        """The URL of a new prefix in the bucket that all tests share.

        SeaweedFS gives every bucket volumes of its own, and a session of tests would use them up.
        """
        return self.url(SHARED_BUCKET, f"{uuid.uuid4().hex[:12]}/{prefix}", endpoint=endpoint)


def program(name: str) -> str:
    """The path of a program that a wheel put beside this interpreter."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found is not None, f"{name} is not installed: pip install -e '.[test]'"
    return found


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """The servers' key pair in the environment, and nobody's profile."""
    before = dict(os.environ)
    for variable in list(os.environ):
        if variable.startswith("AWS_"):
            del os.environ[variable]
    os.environ.update(ENVIRONMENT)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def seaweedfs(s3_credentials: None) -> Iterator[S3Server]:
    """SeaweedFS: conditional puts, compare and swap, checksums, versioning, object lock."""
    yield from _served("seaweedfs", _seaweedfs_command)


@pytest.fixture(scope="session")
def moto_s3(s3_credentials: None) -> Iterator[S3Server]:
    """moto's server: keeps everything in memory."""
    yield from _served("moto", _moto_command)


@pytest.fixture(scope="session")
def rclone_s3(s3_credentials: None) -> Iterator[S3Server]:
    """`rclone serve s3`: ignores If-None-Match and If-Match and overwrites."""
    yield from _served("rclone", _rclone_command)


@contextmanager
def rclone_server() -> Iterator[S3Server]:
    """The same outside of pytest, for benchmarks."""
    yield from _served("rclone", _rclone_command)


@contextmanager
def seaweedfs_server() -> Iterator[S3Server]:
    """The same outside of pytest, for benchmarks."""
    yield from _served("seaweedfs", _seaweedfs_command)


def _seaweedfs_command(directory: Path) -> tuple[list[str], int]:
    identity = {
        "name": "drtool",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    configuration = directory / "s3.json"
    configuration.write_text(json.dumps({"identities": [identity]}))
    data = directory / "data"
    data.mkdir()
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    ports = free_ports(2 * len(names))
    options = [f"-{name}{kind}={ports.pop()}" for kind in (".grpc", "") for name in reversed(names)]
    s3_port = int(next(o for o in options if o.startswith("-s3.port=")).split("=")[1])
    command = [
        program("weed"), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-filer", "-s3", "-s3.autoCreateBucket=false",
        f"-s3.config={configuration}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-volume.max=50", "-master.volumeSizeLimitMB=256", "-master.volumePreallocate=false",
        "-master.telemetry=false", *options,
    ]  # fmt: skip
    return command, s3_port


def _moto_command(_directory: Path) -> tuple[list[str], int]:
    port = free_port()
    return [sys.executable, str(Path(__file__).with_name("moto_in_turn.py")), str(port)], port


def _rclone_command(directory: Path) -> tuple[list[str], int]:
    port = free_port()
    data = directory / "data"
    data.mkdir()
    keys = f"{ACCESS_KEY},{SECRET_KEY}"
    command = [
        program("rclone"), "serve", "s3", "--config", "", "--addr", f"127.0.0.1:{port}",
        "--auth-key", keys, "--vfs-cache-mode", "off", str(data),
    ]  # fmt: skip
    return command, port


def _served(
    name: str, command_for: Callable[[Path], tuple[Sequence[str], int]]
) -> Iterator[S3Server]:
    """Start a server, wait until it makes buckets, and stop it in the end."""
    directory = Path(tempfile.mkdtemp(prefix=f"drtool-{name}-", dir="/tmp"))
    command, port = command_for(directory)
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    server = S3Server(name, f"http://127.0.0.1:{port}")
    try:
        _wait_until_ready(server, process, log)
        yield server
    finally:
        process.kill()  # nothing of it is needed any more, and rclone waits for idle connections
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once an object can be put and read back; the log's end is in the failure."""
    client = server.client()
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.create_bucket(Bucket=SHARED_BUCKET)
            client.put_object(Bucket=SHARED_BUCKET, Key="ready", Body=b"ready")
            client.get_object(Bucket=SHARED_BUCKET, Key="ready")["Body"].read()
            return
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise AssertionError(f"{server.name} does not start: {error}\n{tail}") from error
        time.sleep(0.1)
