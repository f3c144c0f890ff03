"""Write an image's bill of materials: CycloneDX 1.5 in JSON, of every distribution and every Debian package in it.

    python sbom.py --lock EXPORT --environment DIR --dpkg-status FILE --seconds EPOCH --output FILE

EXPORT is what ``uv export --format cyclonedx1.5`` says of the lock file: names, versions, package URLs, the hashes
of the published files and who depends on whom. Of that the bill keeps what is installed in the environment, adds the
licences that the distributions declare, the interpreter and the base image's Debian packages, and refuses
(status 1) where lock and environment differ. The same inputs give the same bytes.
Format: https://cyclonedx.org/docs/1.5/json/; package URLs: https://github.com/package-url/purl-spec.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from email.parser import HeaderParser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]

SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/farthing/farthing/sbom")
"""In this a bill's serial number is made of its content."""
LONGEST_LICENCE = 64
"""Characters; some distributions give the whole text in place of a name."""


def normalised(name: str) -> str:
    """A distribution's name as the package index spells it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licences(distribution: Distribution) -> list[dict[str, Any]]:
    """What the distribution declares: an SPDX expression (PEP 639), else its short name, else its classifiers."""
    metadata = distribution.metadata
    if "License-Expression" in metadata:
        return [{"expression": metadata["License-Expression"]}]
    name = metadata["License"].strip() if "License" in metadata else ""
    if name and len(name) <= LONGEST_LICENCE and "\n" not in name:
        return [{"license": {"name": name}}]
    classifiers = [line for line in metadata.get_all("Classifier") or () if line.startswith("License ::")]
    return [{"license": {"name": line.rpartition(" :: ")[2]}} for line in classifiers]


def installed(environment: Path) -> dict[str, Distribution]:
    """The environment's distributions by normalised name."""
    paths = [str(path) for path in environment.glob("lib/python3.*/site-packages")]
    return {normalised(found.metadata["Name"]): found for found in distributions(path=paths)}


def python_components(export: dict[str, Any], found: dict[str, Distribution]) -> list[Component]:
    """The lock's components that are installed, with licences; SystemExit where the two differ."""
    root = export["metadata"]["component"]
    # by version too: a lock may hold several of one name, for different interpreters
    known = {(normalised(part["name"]), part["version"]): part for part in [*export["components"], root]}
    for name, distribution in sorted(found.items()):
        if (name, distribution.version) not in known:
            raise SystemExit(f"sbom: {name} {distribution.version} is installed, but it is not in the lock file")
    components = []
    for name, distribution in sorted(found.items()):
        component = {key: value for key, value in known[name, distribution.version].items() if key != "properties"}
        if declared := licences(distribution):
            component["licenses"] = declared
        components.append(component)
    return components


def debian_components(status: str) -> Iterator[Component]:
    """The packages that dpkg's status file says are installed."""
    for stanza in re.split(r"\n\n+", status.strip()):
        fields = HeaderParser().parsestr(stanza)
        if fields.get("Status", "").split()[-1:] != ["installed"]:
            continue
        name, version, machine = fields["Package"], fields["Version"], fields["Architecture"]
        url = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={machine}"
        component = {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}
        yield component


def interpreter() -> Component:
    """The Python that runs this, and the image."""
    version = platform.python_version()
    return {
        "type": "platform",
        "bom-ref": f"cpython@{version}",
        "name": "cpython",
        "version": version,
        "purl": f"pkg:generic/cpython@{version}",
        "licenses": [{"license": {"id": "Python-2.0"}}],
    }


def bill(export: dict[str, Any], found: dict[str, Distribution], status: str, seconds: int) -> dict[str, Any]:
    """The bill of materials; its time is ``seconds`` since the epoch."""
    root = export["metadata"]["component"]
    python = python_components(export, found)
    (subject,) = (component for component in python if component["bom-ref"] == root["bom-ref"])
    kept = {component["bom-ref"] for component in python}
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z"),
            "tools": export["metadata"]["tools"],
            "component": {**subject, "type": "application"},
        },
        "components": [
            *(component for component in python if component is not subject),
            interpreter(),
            *debian_components(status),
        ],
        "dependencies": [
            {"ref": entry["ref"], "dependsOn": [name for name in entry.get("dependsOn", ()) if name in kept]}
            for entry in export["dependencies"]
            if entry["ref"] in kept
        ],
    }
    content = json.dumps(document, sort_keys=True)
    return {"serialNumber": f"urn:uuid:{uuid.uuid5(SPACE, content)}", **document}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--lock", "--environment", "--dpkg-status", "--output"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seconds", type=int, required=True)
    given = parser.parse_args()
    export = json.loads(given.lock.read_text())
    document = bill(export, installed(given.environment), given.dpkg_status.read_text(), given.seconds)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
