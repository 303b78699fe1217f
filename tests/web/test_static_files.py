"""Files of others that the console ships are those of their makers."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

from gfs.web.static_files import DIRECTORY


def test_vendored_files_are_those_of_their_makers() -> None:
    listed = tomllib.loads(Path(DIRECTORY, "VENDOR.toml").read_text())
    scripts = {path.name for path in Path(DIRECTORY).glob("*.js")}
    assert scripts == set(listed)
    for name, told in listed.items():
        assert hashlib.sha256(Path(DIRECTORY, name).read_bytes()).hexdigest() == told["sha256"], name
        assert told["name"] and told["version"] and told["licence"]
