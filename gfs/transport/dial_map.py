"""Lets a program dial another address than the one it knows: where ports are forwarded, or links are tested.

    GFS_DIAL_MAP=/path/to/map.json      {"10.0.0.1:9500": "127.0.0.1:19500", …}

Programs learn each other's addresses from gfs.toml, from the log, from heartbeats and from leases; all of
these name where a program listens. With a map, a connection to a listed address goes to the one beside it,
and everything else stays: ids, errors and messages name the address that is meant, and whoever answers has to
prove who it is as ever. Every wire asks here before it dials: control, bulk, and between masters.

Off unless the variable is set. The file is read again once it has changed, so links to programs that come
later can be added while this one runs; write it anew beside and rename it into place.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from gfs.errors import ConfigInvalid
from gfs.telemetry import logger
from gfs.vocabulary import Address, split_address

ENVIRONMENT_KEY = "GFS_DIAL_MAP"

Dial = Callable[[Address], Address]  # from the address that is meant to the one that is dialled
_Stamp = tuple[int, int, int]
_decode = msgspec.json.Decoder(dict[str, str]).decode
_log = logger("transport")


class DialMap:
    """A file of addresses; a Dial. From any thread."""

    def __init__(self, path: str) -> None:
        """Raises: ConfigInvalid, when there is no such file, or it is no map of addresses."""
        self._path = path
        self._read: tuple[_Stamp, dict[Address, Address]] = self._load()

    def __call__(self, address: Address) -> Address:
        """Where to dial. A map that has become unreadable is used as it was."""
        stamp, known = self._read
        try:
            if _stamp(self._path) != stamp:
                self._read = _, known = self._load()
        except (OSError, ConfigInvalid) as error:
            _log.warning("dial map not read again", path=self._path, reason=str(error))
        return known.get(address, address)

    def _load(self) -> tuple[_Stamp, dict[Address, Address]]:
        try:
            stamp = _stamp(self._path)  # before the content: a change in between is seen the next time
            with open(self._path, "rb") as file:
                found = _decode(file.read())
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigInvalid(
                f"{ENVIRONMENT_KEY}: {self._path} cannot be read: {error}",
                hint='It is JSON: {"address that is meant": "address to dial", …}.',
            ) from error
        for address in (*found, *found.values()):
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ConfigInvalid(f"{ENVIRONMENT_KEY}: {self._path}: {address!r} is not host:port")
        return stamp, {Address(meant): Address(dialled) for meant, dialled in found.items()}


def _stamp(path: str) -> _Stamp:
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns, status.st_size


def _from_environment() -> DialMap | None:
    path = os.environ.get(ENVIRONMENT_KEY)
    if not path:
        return None
    try:
        return DialMap(path)
    except ConfigInvalid as error:
        raise SystemExit(f"gfs: {error.message}\n  {error.hint}".rstrip()) from error


_map = _from_environment()


def dialled_address(address: Address) -> Address:
    """Where this program dials to reach `address`."""
    return address if _map is None else _map(address)


def dialled_endpoint(host: str, port: int) -> tuple[str, int]:
    """As dialled_address, of a host and a port."""
    if _map is None:
        return host, port
    meant = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return split_address(_map(Address(meant)))
