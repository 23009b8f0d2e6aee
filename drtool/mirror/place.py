"""The signs of the place where the source's tree was, kept in the catalogue from run to run."""

from __future__ import annotations

import json

from drtool.mirror.catalogue import Catalogue
from drtool.sources.files.guard import PlaceSigns


def place_before(catalogue: Catalogue) -> PlaceSigns | None:
    """The signs as the last run left them; None before the first."""
    text = catalogue.about("place")
    if text is None:
        return None
    is_mount_point, device, file_system_id = json.loads(text)
    return PlaceSigns(
        is_mount_point=bool(is_mount_point), device=device, file_system_id=file_system_id
    )


def place_text(place: PlaceSigns) -> str:
    """The signs as `place_before` reads them."""
    return json.dumps([place.is_mount_point, place.device, place.file_system_id])
