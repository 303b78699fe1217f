"""gfs.toml: what is wrong with it is said with the path of the key."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gfs import settings
from gfs.errors import ConfigInvalid
from gfs.vocabulary import MIB


def load(tmp_path: Path, text: str, **environment: str) -> settings.Settings:
    path = tmp_path / "gfs.toml"
    path.write_text(text)
    return settings.load(str(path), environment=environment)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[master]\nlease = 3\n", "unknown field `lease` - at `$.master`"),
        ("[mister]\n", "unknown field `mister`"),
        ("[master]\nlease_seconds = 'soon'\n", "$.master.lease_seconds"),
        ("[master]\nlease_seconds = '3 parsecs'\n", "$.master.lease_seconds: '3 parsecs' is not a duration"),
        ("[client]\npiece_bytes = '3 s'\n", "$.client.piece_bytes: '3 s' is not a size"),
        ("[client]\npiece_bytes = -1\n", "$.client.piece_bytes: -1 is not above zero"),
        ("[client]\npiece_bytes = '1GiB'\n", "$.client.piece_bytes"),
        ("[chunkserver]\ndurability = 'hope'\n", "'hope' is not one of flush, sync"),
        ("[raft]\nheartbeat_seconds = '100ms'\n", "$.raft.heartbeat_seconds: three heartbeats"),
        ("[raft]\nelection_seconds_min = 2.0\n", "$.raft.election_seconds_min"),
        ("[masters.m1]\ncontrol = '127.0.0.1'\nraft = '127.0.0.1:2'\n", "$.masters.m1.control"),
        ("[masters.m1]\ncontrol = '127.0.0.1:2'\nraft = '127.0.0.1:2'\n", "is also $.masters.m1.control"),
        ("[masters.m1]\ncontrol = '10.0.0.1:1'\nraft = '127.0.0.1:2'\n", "beyond loopback"),
        ("[masters.'../x']\ncontrol = '127.0.0.1:1'\nraft = '127.0.0.1:2'\n", "an id is"),
        ("[masters.m1]\nraft = '127.0.0.1:2'\n", "missing required field `control`"),
        ("[master\n", "not valid TOML"),
    ],
)
def test_a_wrong_key_type_or_unit_is_refused_with_its_path(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(tmp_path, text)
    assert said in caught.value.message


def test_a_missing_file_and_a_binary_file_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="does not exist"):
        settings.load(str(tmp_path / "none.toml"), environment={})
    (tmp_path / "gfs.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigInvalid, match="not valid TOML"):
        settings.load(str(tmp_path / "gfs.toml"), environment={})


def test_environment_lies_over_the_file_and_units_are_read_in_both(tmp_path: Path) -> None:
    text = "[client]\npiece_bytes = '2MiB'\nretry_seconds = '500ms'\n"
    found = load(tmp_path, text, GFS__CLIENT__RETRY_SECONDS="2m", GFS__MASTER__LEASE_SECONDS="30", HOME="/x")
    assert found.client.piece_bytes == 2 * MIB
    assert found.client.retry_seconds == 120.0
    assert found.master.lease_seconds == 30.0


def test_an_unknown_environment_key_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"GFS__MASTER__LEASE.*at `\$\.master`"):
        load(tmp_path, "", GFS__MASTER__LEASE="3")


def test_config_check_answers_programs_in_json(tmp_path: Path) -> None:
    path = tmp_path / "gfs.toml"
    path.write_text("[masters.m1]\ncontrol = '127.0.0.1:1'\nraft = '127.0.0.1:2'\n")
    command = [sys.executable, "-m", "gfs", "-o", "json", "config", "check", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    assert found == {"path": str(path), "good": True, "masters": ["m1"], "chunkservers": []}
