"""Mirrors in a bucket with versions (SeaweedFS) and in a plain one (rclone)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mirror.rig import Rig
from tests.servers.object_stores import (
    SHARED_BUCKET,
    S3Server,
    rclone_s3,
    s3_credentials,
    seaweedfs,
)

__all__ = ["rclone_s3", "s3_credentials", "seaweedfs"]


@pytest.fixture(scope="session")
def versioned_bucket(seaweedfs: S3Server) -> str:
    """One bucket with versions for all tests: SeaweedFS has volumes for few."""
    name = seaweedfs.new_bucket()
    seaweedfs.client().put_bucket_versioning(
        Bucket=name, VersioningConfiguration={"Status": "Enabled"}
    )
    return name


@pytest.fixture
def versioned(seaweedfs: S3Server, versioned_bucket: str, tmp_path: Path) -> Rig:
    """A mirror whose bucket keeps versions."""
    return Rig(seaweedfs, versioned_bucket, tmp_path)


@pytest.fixture
def plain(rclone_s3: S3Server, tmp_path: Path) -> Rig:
    """A mirror whose bucket keeps none."""
    return Rig(rclone_s3, SHARED_BUCKET, tmp_path)


@pytest.fixture(params=["versioned", "plain"])
def rig(request: pytest.FixtureRequest) -> Rig:
    """Each of the two."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Rig)
    return found
