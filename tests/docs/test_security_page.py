"""The page of security lists each port, scope and secret that there is, and none that is not."""

import re
from datetime import UTC, datetime

from tests.docs.pages import ROOT, rows, sections

from farthing.cli.gpu_commands import AGENT_PORT
from farthing.domain.access import Scope
from farthing.settings import Settings
from farthing.stack.jaeger import JAEGER_OWN_METRICS
from farthing.stack.secret_files import READERS, init_secrets

PAGE = (ROOT / "docs/security.md").read_text()
SECTIONS = sections(PAGE)


def test_every_port_is_listed_with_what_authenticates_it_in_either_stack():
    """A port that somebody adds has to be thought about."""
    stack = Settings().stack
    ports = {Settings().serve.port, AGENT_PORT, JAEGER_OWN_METRICS}
    ports |= {getattr(stack, name) for name in type(stack).model_fields if name.endswith("_port")}
    table = [row for row in rows(SECTIONS["Ports"]) if re.match(r"\d", row[0])]
    assert sorted(int(port) for row in table for port in row[0].split(", ")) == sorted(ports)
    assert all(len(row) == 4 and all(row) for row in table)


def test_every_scope_is_explained():
    """In the order of what they open."""
    assert [row[0].strip("`") for row in rows(SECTIONS["Scopes"])[1:]] == list(Scope)


def test_every_folder_of_secrets_is_listed_and_the_files_that_people_meet_are_there(tmp_path):
    """One row per reader."""
    folders = [row[0].strip("`/") for row in rows(SECTIONS["Ports"]) if row[0].endswith("/`")]
    assert folders == list(READERS)
    init_secrets(tmp_path, datetime(2026, 11, 27, tzinfo=UTC))
    for name in ("read-token", "first-token", "tokens.yaml"):
        assert f"`{name}`" in PAGE or f"/{name}`" in PAGE
        assert (tmp_path / "farthing" / name).exists()
