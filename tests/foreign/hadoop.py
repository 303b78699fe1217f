"""Hadoop's own programs out of the pyspark package: its shell, and Spark jobs. No assertions here."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM_SECONDS = 200.0


def hadoop_jars() -> str:
    """A class path with all of Spark's jars. Skips where there is no Java, or no pyspark."""
    if shutil.which("java") is None:
        pytest.skip("java is not installed")
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        pytest.skip("pyspark is not installed")
    return str(Path(spec.origin).parent / "jars" / "*")


def shell(address: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """`hadoop fs ARGUMENTS`, with webhdfs://ADDRESS as its default file system."""
    default = f"<property><name>fs.defaultFS</name><value>webhdfs://{address}</value></property>"
    (home / "core-site.xml").write_text(f"<configuration>{default}</configuration>")
    command = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{home}:{hadoop_jars()}"]
    command += ["org.apache.hadoop.fs.FsShell", *arguments]
    return _run(command, home)


def spark(script: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A job of one local executor, as a user would start it: python SCRIPT ARGUMENTS."""
    hadoop_jars()
    (home / "job.py").write_text(script)
    return _run([sys.executable, str(home / "job.py"), *arguments], home)


def _run(command: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "JAVA_HOME") if name in os.environ}
    environment = {**kept, "HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "HADOOP_USER_NAME": "somebody"}
    return subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=PROGRAM_SECONDS
    )
