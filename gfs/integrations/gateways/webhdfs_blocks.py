"""Where the bytes of a file lie, in the two forms that clients of HDFS ask for. No requests, no files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gfs.messages.chunks import ChunkPlace, Replica
from gfs.vocabulary import CHUNK_BYTES

Json = dict[str, Any]  # Any: what JSON can hold


def block_locations(
    places: Iterable[ChunkPlace], *, file_bytes: int, first: int = 0, length_bytes: int | None = None
) -> Json:
    """The answer to GETFILEBLOCKLOCATIONS: the chunks that have bytes of the span, and who keeps them."""
    blocks = []
    for place in _within(places, first, file_bytes if length_bytes is None else length_bytes):
        names = [str(replica.data) for replica in place.replicas]
        blocks.append(
            {
                "cachedHosts": [],
                "corrupt": False,
                "hosts": [name.rpartition(":")[0] for name in names],
                "length": _block_bytes(place, file_bytes),
                "names": names,
                "offset": place.index * CHUNK_BYTES,
                "storageTypes": ["DISK" for _ in names],
                "topologyPaths": [f"{_rack(replica)}/{replica.data}" for replica in place.replicas],
            }
        )
    return {"BlockLocations": {"BlockLocation": blocks}}


def located_blocks(
    places: Iterable[ChunkPlace], *, file_bytes: int, first: int = 0, length_bytes: int | None = None
) -> Json:
    """The answer to GET_BLOCK_LOCATIONS, which Hadoop's own client asks for the same before each job."""
    blocks = [
        {
            "block": {
                "blockId": place.handle,
                "blockPoolId": "gfs",
                "generationStamp": place.version,
                "numBytes": _block_bytes(place, file_bytes),
            },
            "blockToken": None,
            "cachedLocations": [],
            "isCorrupt": False,
            "locations": [_datanode(replica) for replica in place.replicas],
            "startOffset": place.index * CHUNK_BYTES,
            "storageTypes": ["DISK" for _ in place.replicas],
        }
        for place in _within(places, first, file_bytes if length_bytes is None else length_bytes)
    ]
    told = {
        "fileLength": file_bytes,
        "isLastBlockComplete": True,
        "isUnderConstruction": False,
        "lastLocatedBlock": blocks[-1] if blocks else None,
        "locatedBlocks": blocks,
    }
    return {"LocatedBlocks": told}


def _within(places: Iterable[ChunkPlace], first: int, length_bytes: int) -> list[ChunkPlace]:
    return [
        place
        for place in places
        if place.index * CHUNK_BYTES < first + length_bytes and (place.index + 1) * CHUNK_BYTES > first
    ]


def _block_bytes(place: ChunkPlace, file_bytes: int) -> int:
    return max(0, min(CHUNK_BYTES, file_bytes - place.index * CHUNK_BYTES))


def _datanode(replica: Replica) -> Json:
    # Nobody can speak HDFS's data protocol to it; schedulers compare the host with those of their workers.
    host, _, port = str(replica.data).rpartition(":")
    return {
        "adminState": "NORMAL",
        "hostName": host,
        "infoPort": 0,
        "ipAddr": host,
        "ipcPort": 0,
        "networkLocation": _rack(replica),
        "storageID": str(replica.data),
        "xferPort": int(port),
    }


def _rack(replica: Replica) -> str:
    return f"/{replica.rack or 'default-rack'}"
