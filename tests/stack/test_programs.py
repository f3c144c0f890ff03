"""What is missing is told with the command that installs it; what is optional is not missed."""

import socket
from pathlib import Path

import pytest

from farthing.domain.errors import ConfigError, PortBusyError, StackError
from farthing.stack.parts import Part, PartPort
from farthing.stack.ports import check_ports
from farthing.stack.programs import find_programs


def put(folder: Path, *names: str) -> str:
    """A search path with empty programs of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch(mode=0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        ((), "prometheus prometheus-alertmanager"),
        (("prometheus",), "prometheus-alertmanager"),
        (("alertmanager",), "prometheus"),
    ],
)
def test_missing_parts_are_told_with_the_command_that_installs_them(tmp_path, present, missing):
    """Exactly the missing ones."""
    with pytest.raises(StackError, match=rf"apt-get install --no-install-recommends {missing} \("):
        find_programs(put(tmp_path, *present))


def test_grafana_and_jaeger_are_optional(tmp_path):
    """Their commands are empty then."""
    programs = find_programs(put(tmp_path, "prometheus", "alertmanager"))
    assert (programs.grafana, programs.jaeger) == ((), ())


def test_debians_alertmanager_is_preferred_to_upstreams(tmp_path):
    """Both may be there; the package is the one that is kept up to date."""
    programs = find_programs(put(tmp_path, "prometheus", "alertmanager", "prometheus-alertmanager"))
    assert Path(programs.alertmanager[0]).name == "prometheus-alertmanager"


@pytest.mark.parametrize(
    ("binary", "words"), [("grafana", ("grafana", "server")), ("grafana-server", ("grafana-server",))]
)
def test_grafana_is_started_from_its_home(tmp_path, binary, words):
    """The folder above its binary, as in upstream's archive."""
    search_path = put(tmp_path / "grafana" / "bin", "prometheus", "alertmanager", binary)
    (tmp_path / "grafana" / "conf").mkdir()
    (tmp_path / "grafana" / "conf" / "defaults.ini").touch()
    command = find_programs(search_path).grafana
    assert (Path(command[0]).name, *command[1:]) == (*words, "--homepath", str(tmp_path / "grafana"))


def part(name: str, *ports: PartPort) -> Part:
    """A part that only listens."""
    return Part(name, ("x",), ports, "", "", 1)


def test_one_port_for_two_parts_is_told_with_both_settings():
    """Also where the model of the settings cannot see it: serve and stack are different sections."""
    parts = [part("a", PartPort(9464, "stack.a_port")), part("b", PartPort(9464, "serve.port"))]
    with pytest.raises(ConfigError, match=r"serve\.port and stack\.a_port are both 9464"):
        check_ports(parts)


def test_an_address_that_is_not_of_this_machine_is_no_busy_port():
    """It is a mistake in the settings."""
    with pytest.raises(ConfigError, match=r"serve\.port: farthing cannot listen on 203\.0\.113\.1"):
        check_ports([part("farthing", PartPort(39464, "serve.port", "203.0.113.1"))])


def test_a_listener_on_every_address_makes_a_port_busy():
    """The stack binds to loopback, which such a listener covers."""
    with socket.create_server(("", 0)) as listener:
        number = listener.getsockname()[1]
        with pytest.raises(PortBusyError, match=f"port {number}, which prometheus needs"):
            check_ports([part("prometheus", PartPort(number, "stack.prometheus_port"))])
