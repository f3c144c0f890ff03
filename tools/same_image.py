"""Compare what two images hold: their files' paths, kinds, modes, owners, times and bytes, below given folders.

    python tools/same_image.py IMAGE IMAGE [FOLDER ...]

Prints every path that differs, and the digest of each image's tree; ends with status 1 where they differ. Without
folders it compares what Farthing's build adds. Talks to the engine that the `docker` command talks to. Times of
folders are left out: the copying of a layer sets those, not the build.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence

ADDED = ("opt/farthing", "usr/share/doc/farthing")
"""What farthing.Dockerfile copies into its last stage."""


def tree(image: str, folders: Sequence[str] = ADDED) -> dict[str, str]:
    """Path -> a digest of everything about it, of the image's files below the folders; CalledProcessError."""
    made = subprocess.run(["docker", "create", image], capture_output=True, text=True, check=True)
    container = made.stdout.strip()
    try:
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export:
            if export.stdout is None:
                raise RuntimeError("docker export has no output to read")
            with tarfile.open(fileobj=export.stdout, mode="r|") as archive:
                found = {entry.name: _digest(archive, entry) for entry in archive if _within(entry.name, folders)}
        if export.returncode:
            raise subprocess.CalledProcessError(export.returncode, export.args)
        return found
    finally:
        subprocess.run(["docker", "rm", "--volumes", container], stdout=subprocess.DEVNULL, check=True)


def digest(found: dict[str, str]) -> str:
    """One digest of a whole tree."""
    return hashlib.sha256("\n".join(f"{path} {found[path]}" for path in sorted(found)).encode()).hexdigest()


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The paths that are in one tree only, or differ."""
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))


def _within(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _digest(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    time = 0 if entry.isdir() else entry.mtime
    kind = entry.type.decode("latin-1")
    about = f"{kind} {entry.mode:o} {entry.uid} {entry.gid} {entry.size} {time} {entry.linkname}"
    content = archive.extractfile(entry) if entry.isfile() else None
    return hashlib.sha256(about.encode() + (content.read() if content else b"")).hexdigest()


def main(images: Sequence[str], folders: Sequence[str]) -> int:
    """The command's exit status."""
    one, other = (tree(image, folders) for image in images)
    differ = differences(one, other)
    lines = [*differ, *(f"{digest(found)}  {image}" for image, found in zip(images, (one, other), strict=True))]
    if not one:
        lines.append(f"same_image: the first image has nothing below {' or '.join(folders)}")
    sys.stdout.write("\n".join([*lines, ""]))
    return 1 if differ or not one else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:3], sys.argv[3:] or ADDED))
