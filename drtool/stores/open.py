"""Opens the store that a policy's URL names."""

from __future__ import annotations

from drtool.errors import AccessDenied, RepositoryUnavailable
from drtool.stores.capabilities import Capabilities
from drtool.stores.place import LocalPlace, parse_place
from drtool.stores.protocol import Store
from drtool.system.clock import Clock


def open_store(url: str, *, clock: Clock) -> Store:
    """The store at `url` (file://, s3://, gs://, az://). Nothing is asked of it yet.

    PolicyError, with a hint, for a url that leads nowhere; AccessDenied where an AWS profile is
    named and gives no credentials.
    """
    place = parse_place(url)
    if isinstance(place, LocalPlace):
        from drtool.stores.local import LocalStore

        return LocalStore(place.path, clock=clock)
    from drtool.stores.remote import RemoteStore

    return RemoteStore(place, clock=clock)


def believing(store: Store, capabilities: Capabilities) -> Store:
    """The same store, relying on what was measured of it; what a directory does is known."""
    from drtool.stores.local import LocalStore

    if isinstance(store, LocalStore):
        return store
    # Its libraries take a while to load: only for whoever has a bucket.
    from drtool.stores.remote import RemoteStore

    return store.with_capabilities(capabilities) if isinstance(store, RemoteStore) else store


def refuses_conditions(store: Store) -> bool:
    """Whether the store has refused a conditional put since it was opened, and taken a plain one."""
    from drtool.stores.local import LocalStore

    if isinstance(store, LocalStore):
        return False
    from drtool.stores.remote import RemoteStore

    return isinstance(store, RemoteStore) and store.has_refused_conditions


def prepare_place(url: str) -> None:
    """Make the directory of a file:// url, for us alone; buckets are their owners' to make.

    Its parents are made such that others may pass through, as users of restored servers must.
    For `repository init` alone: everybody else takes a missing directory for an unmounted disk.
    """
    place = parse_place(url)
    if not isinstance(place, LocalPlace):
        return
    from drtool.system.durable import make_private_directory

    try:
        make_private_directory(place.path)
    except PermissionError as error:
        raise AccessDenied(
            f"directory {place.path} cannot be made: permission denied",
            hint=f"Make it yourself: sudo install -d -m 700 -o $USER {place.path}",
        ) from error
    except OSError as error:
        raise RepositoryUnavailable(
            f"directory {place.path} cannot be made: {error.strerror}",
            hint="Look at the file system, or choose another directory in the policy.",
        ) from error
