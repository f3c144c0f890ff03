"""The one root file system that every image of the test stands on: Debian 12 by debootstrap, kept between runs.

There is no registry where the tests run. The archive is made anew when the list of packages changes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests.alerts.real_parts import program
from tests.integration.docker.engine import DockerEngine

__all__ = ["import_base"]

SUITE = "bookworm"
PACKAGES = (
    *("ca-certificates", "prometheus", "prometheus-alertmanager", "python3", "python3-venv", "wget"),
    # what the exporter's check of health runs, and what a container's log is read with
    "bash",
)
MIRROR = "http://deb.debian.org/debian"
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
LEFT_OUT = (
    *("proc/*", "sys/*", "usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*", "var/cache/*", "var/lib/apt/*"),
    # the pages of Debian's Prometheus, which nobody opens here
    "usr/share/javascript/*",
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INDEXES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL")


def import_base(engine: DockerEngine, tag: str) -> None:
    """Give the engine the base image under a name."""
    environment = {"PATH": PATH, "PIP_CERT": str(BUNDLE), "SSL_CERT_FILE": str(BUNDLE), **_indexes()}
    changes = [word for name, value in environment.items() for word in ("--change", f"ENV {name}={value}")]
    engine.docker("import", *changes, str(_archive()), tag)


def _indexes() -> dict[str, str]:
    """Where this machine finds packages of Python, as far as a container reaches it too."""
    return {name: os.environ[name] for name in INDEXES if os.environ.get(name, "").startswith("http")}


def _archive() -> Path:
    """The archive of the root; making it takes a minute or two, and finding it none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "farthing"
    key = hashlib.sha256(" ".join((SUITE, *PACKAGES, *LEFT_OUT, _bundle_hash())).encode()).hexdigest()[:16]
    archive = cache / f"docker-base-{key}.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        draft = archive.with_suffix(f".{os.getpid()}")
        try:
            _bootstrap(draft)
            draft.rename(archive)
        finally:
            draft.unlink(missing_ok=True)
    return archive


def _bundle_hash() -> str:
    return hashlib.sha256(BUNDLE.read_bytes()).hexdigest()


def _bootstrap(archive: Path) -> None:
    debootstrap, tar = program("debootstrap"), program("tar")
    folder = Path(tempfile.mkdtemp(prefix="farthing-debian-"))
    root = folder / "root"
    try:
        done = subprocess.run(
            [debootstrap, "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root, _mirror()],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.fail(f"debootstrap: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        # a machine whose way to the index of packages has an authority of its own
        shutil.copy(BUNDLE, root / BUNDLE.relative_to("/"))
        left_out = [f"--exclude=./{pattern}" for pattern in LEFT_OUT]
        subprocess.run([tar, "--directory", root, "--one-file-system", *left_out, "-cf", archive, "."], check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mirror() -> str:
    """The mirror of Debian that this machine takes its own packages from; Debian's where that is none."""
    command = [program("apt-get"), "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line.split() for line in told.stdout.splitlines()]
    uris = [fields[0] for fields in found if len(fields) == 2 and fields[1] == SUITE and fields[0].startswith("http")]
    return uris[0] if uris else MIRROR
