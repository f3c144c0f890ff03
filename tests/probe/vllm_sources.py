"""vLLM's own Python sources of several versions, from the archives that its index offers.

Only the text of ``vllm/**/*.py`` is kept; nothing is built, installed or compiled. ``python -m
tests.probe.vllm_sources`` fetches what is missing and prints the folders.
"""

import hashlib
import io
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
from pathlib import Path, PurePosixPath

import httpx

__all__ = ["CACHE", "VERSIONS", "source_of"]

VERSIONS = ("0.11.2", "0.16.0", "0.26.0", "0.32.0", "0.33.0")
"""The oldest that loads stat loggers as plugins, and each that changed what they get."""
CACHE = Path(os.environ.get("FARTHING_VLLM_SOURCES", "~/.cache/farthing/vllm-sources")).expanduser()
SECONDS = 180.0


def source_of(version: str) -> Path:
    """The folder that has ``vllm`` of a version in it; fetched at the first call.

    Raises httpx.HTTPError, or ValueError when the index offers no such archive or another one than it names.
    """
    folder = CACHE / version
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=CACHE))
    try:
        _extract(_archive(version), part)
        part.rename(folder)
    except OSError:
        if not folder.exists():  # somebody else was quicker
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _index() -> str:
    """The index that pip would ask."""
    told, pip = os.environ.get("PIP_INDEX_URL"), shutil.which("pip")
    if not told and pip:
        asked = [pip, "config", "get", "global.index-url"]
        told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return (told or "https://pypi.org/simple").rstrip("/")


def _archive(version: str) -> bytes:
    """The source archive, checked against the index's digest."""
    page = f"{_index()}/vllm/"
    trust = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    with httpx.Client(verify=trust, follow_redirects=True, timeout=SECONDS) as client:
        listed = client.get(page, headers={"Accept": "text/html"}).raise_for_status().text
        found = re.search(rf'href="([^"#]*/vllm-{re.escape(version)}\.tar\.gz)#sha256=([0-9a-f]{{64}})"', listed)
        if found is None:
            raise ValueError(f"{page} lists no source archive of vLLM {version}")
        body = client.get(urllib.parse.urljoin(page, found[1])).raise_for_status().content
    if hashlib.sha256(body).hexdigest() != found[2]:
        raise ValueError(f"the archive of vLLM {version} is not the one that {page} names")
    return body


def _extract(archive: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as given:
        for member in given:
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if member.isfile() and path.suffix == ".py" and path.parts[0] == "vllm" and ".." not in path.parts:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                content = given.extractfile(member)
                assert content is not None
                target.write_bytes(content.read())


if __name__ == "__main__":
    for each in VERSIONS:
        sys.stdout.write(f"{source_of(each)}\n")
