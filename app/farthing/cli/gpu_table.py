"""The picture of GPUs and their engines, from what ``/api/v1/gpus`` answers: for people, and as rows for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from farthing.domain.conventions import FAULT_ENERGY_WENT_BACK, FAULT_SENTINEL, FAULT_STUCK_UTILIZATION
from farthing.domain.gpu import CPU, MIG, THROTTLE_BOARD, THROTTLE_IDLE, THROTTLE_THERMAL
from farthing.exporters.report import Cell, Column, ReportTable

__all__ = ["gpu_rows", "gpu_table"]

Payload = Mapping[str, Any]

UNKNOWN: Final = "—"
GIB: Final = 2**30
SERIOUS: Final = (THROTTLE_THERMAL, THROTTLE_BOARD)
UNPRINTABLE: Final = "\ufffd"
WIDE: Final = 100
"""Columns of a terminal that has room for everything."""
FAULT_WORDS: Final = {
    FAULT_STUCK_UTILIZATION: "busy stuck at 0",
    FAULT_SENTINEL: "sentinel",
    FAULT_ENERGY_WENT_BACK: "energy fell",
}
MAKERS: Final = ("NVIDIA ", "AMD Instinct ", "Intel(R) ")
"""Left out of a device's name, for width."""

COLUMNS: Final = (
    Column("engine", "Engine"),
    Column("model", "Model"),
    Column("tokens_per_second", "Tokens/s", "number"),
    Column("per_hour", "Per hour", "money"),
    Column("joules_per_token", "J/token", "number"),
    Column("host", "Host"),
    Column("device", "Device", "integer"),
    Column("uuid", "UUID"),
    Column("name", "Name"),
    Column("utilization", "Busy", "ratio"),
    Column("memory_used_bytes", "Memory", "integer"),
    Column("memory_total_bytes", "of", "integer"),
    Column("power_watts", "Power, W", "number"),
    Column("power_limit_watts", "of, W", "number"),
    Column("temperature_celsius", "Celsius", "number"),
    Column("throttle", "Held down by"),
    Column("faults", "Not believed"),
)


def gpu_rows(payload: Payload) -> ReportTable:
    """A row for each engine and device; an engine's figures are its own, not a device's."""
    rows: list[tuple[Cell, ...]] = []
    for engine, device, _ in _pairs(payload):
        rows.append(
            (
                engine.get("name"),
                engine.get("model"),
                engine.get("tokens_per_second"),
                engine.get("per_hour_nano"),
                engine.get("joules_per_token"),
                device.get("host"),
                device.get("index"),
                device.get("uuid"),
                device.get("name"),
                device.get("utilization"),
                device.get("memory_used_bytes"),
                device.get("memory_total_bytes"),
                device.get("power_watts"),
                device.get("power_limit_watts"),
                device.get("temperature_celsius"),
                None if device.get("throttle") is None else " ".join(device["throttle"]),
                " ".join(device.get("faults") or ()),
            )
        )
    return ReportTable(COLUMNS, tuple(rows), currency=payload.get("currency") or "USD")


def gpu_table(payload: Payload, note: str = "", width: int = WIDE) -> Table:
    """The table for people; ``note`` and what sources fail stand below it. Below WIDE columns memory and temperature
    make room for names.
    """
    currency = payload.get("currency") or "USD"
    narrow = width < WIDE
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), header_style="bold", caption_justify="left")
    grid.add_column("Engine", overflow="fold", min_width=8)
    for title in ("Tokens/s", "$/h" if currency == "USD" else f"{currency}/h", "J/token"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("GPU", overflow="fold", min_width=10)
    for title in ("Busy", "Power, W") if narrow else ("Busy", "Memory, GiB", "Power, W", "°C"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("Held down by", overflow="fold", min_width=7)
    several = len({device["host"] for device in payload["devices"]}) > 1
    for engine, device, first in _pairs(payload):
        grid.add_row(*_engine_cells(engine, device, first), *_device_cells(device, several, narrow))
    notes = [note, *(_complaint(source) for source in payload["sources"] if not source["up"])]
    if not payload["devices"]:
        notes.insert(0, "No device is read.")
    grid.caption = Text("\n".join(_printable(line) for line in notes if line), style="dim")
    return grid


def _complaint(source: Payload) -> str:
    """Which source gives nothing and, as far as it is told, why; a complaint mostly begins with its source."""
    name, complaint = source["name"], " ".join(str(source.get("complaint") or "").split())
    why = complaint.removeprefix(name).lstrip(": ")
    return f"{name} cannot be read: {why}" if why else f"{name} cannot be read."


def _pairs(payload: Payload) -> Iterator[tuple[Payload, Payload, bool]]:
    """(engine, device, whether it is the engine's first); {} where an engine has none known, or the other way round."""
    devices = {device["uuid"]: device for device in payload["devices"]}
    for engine in payload["engines"]:
        mine = [devices[uuid] for uuid in engine["devices"] if uuid in devices]
        for number, device in enumerate(mine or [{}]):
            yield engine, device, number == 0
    for device in payload["devices"]:
        if not device["engines"]:
            yield {}, device, True


def _engine_cells(engine: Payload, device: Payload, first: bool) -> list[Text]:
    if not engine:
        nano = device.get("unallocated_per_hour_nano")
        return [Text("none", style="dim"), Text(UNKNOWN), _money(nano), Text(UNKNOWN)]
    if not first:
        return [Text("″", style="dim"), Text(), Text(), Text()]
    return [
        Text(_printable(engine["name"])),
        _number(engine.get("tokens_per_second"), 1),
        _money(engine.get("per_hour_nano")),
        _number(engine.get("joules_per_token"), 3),
    ]


def _device_cells(device: Payload, several_hosts: bool, narrow: bool) -> list[Text]:
    if not device:
        return [Text(UNKNOWN)] * (4 if narrow else 6)
    busy = Text(UNKNOWN if device["utilization"] is None else f"{device['utilization']:.0%}")
    memory = _of(device["memory_used_bytes"], device["memory_total_bytes"], GIB, 1)
    power = _of(device["power_watts"], device["power_limit_watts"], 1, 0)
    cells = [busy, power] if narrow else [busy, memory, power, _number(device["temperature_celsius"], 0)]
    return [Text(_called(device, several_hosts)), *cells, _held(device)]


def _called(device: Payload, several_hosts: bool) -> str:
    name = _printable(device["name"] or device["uuid"])
    for maker in MAKERS:
        name = name.removeprefix(maker)
    if device["kind"] == MIG:
        name = f"{name} {device['profile']}".strip() if device["profile"] not in name else name
    number = "" if device["index"] is None else f"{device['index']} "
    host = f"{_printable(device['host'])} " if several_hosts else ""
    return f"{host}{'cpu ' if device['kind'] == CPU else ''}{number}{name}"


def _held(device: Payload) -> Text:
    """Why clocks are held down, and what is not believed; having no work is no reason to show."""
    text = Text()
    if device["throttle"] is None:
        text.append(UNKNOWN)
    for reason in device["throttle"] or ():
        if reason != THROTTLE_IDLE:
            text.append(f"{' ' if text else ''}{reason}", style="red" if reason in SERIOUS else "yellow")
    for fault in device["faults"]:
        text.append(f"{', ' if text else ''}{FAULT_WORDS.get(fault, _printable(fault))}", style="red")
    if device["xid"]:
        text.append(f"{', ' if text else ''}XID {device['xid']}", style="red")
    return text


def _number(value: float | None, digits: int) -> Text:
    return Text(UNKNOWN if value is None else f"{value:,.{digits}f}")


def _of(value: float | None, whole: float | None, unit: int, digits: int) -> Text:
    if value is None:
        return Text(UNKNOWN)
    text = f"{value / unit:,.{digits}f}"
    return Text(text if whole is None else f"{text}/{whole / unit:,.0f}")


def _money(nano: int | None) -> Text:
    """Rounded to cents; the other outputs are exact."""
    return Text(UNKNOWN if nano is None else f"{nano / 10**9:,.2f}")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else UNPRINTABLE for character in text)
