"""Grafana's database as far as people write into it: tables as its migrations make them, and rows in each.

Columns are those of pkg/services/sqlstore/migrations/{user_mig,org_mig,dashboard_mig,folder_mig,star_mig,
preferences_mig,dashboard_version_mig}.go of Grafana 12, less those that nothing here reads.
"""

import json
import sqlite3
from pathlib import Path

__all__ = ["TABLES", "content", "make"]

TABLES = {
    "migration_log": "id INTEGER PRIMARY KEY, migration_id TEXT, sql TEXT, success INTEGER, error TEXT, timestamp TEXT",
    "user": (
        "id INTEGER PRIMARY KEY, version INTEGER, login TEXT, email TEXT, name TEXT, password TEXT, salt TEXT, "
        "rands TEXT, org_id INTEGER, is_admin INTEGER, created TEXT, updated TEXT, uid TEXT"
    ),
    "org": "id INTEGER PRIMARY KEY, version INTEGER, name TEXT, created TEXT, updated TEXT",
    "org_user": "id INTEGER PRIMARY KEY, org_id INTEGER, user_id INTEGER, role TEXT, created TEXT, updated TEXT",
    "folder": (
        "id INTEGER PRIMARY KEY, uid TEXT, org_id INTEGER, title TEXT, description TEXT, parent_uid TEXT, created TEXT"
    ),
    "dashboard": (
        "id INTEGER PRIMARY KEY, version INTEGER, slug TEXT, title TEXT, data TEXT, org_id INTEGER, created TEXT, "
        "updated TEXT, is_folder INTEGER, folder_uid TEXT, uid TEXT"
    ),
    "dashboard_version": "id INTEGER PRIMARY KEY, dashboard_id INTEGER, version INTEGER, data TEXT, message TEXT",
    "star": "id INTEGER PRIMARY KEY, user_id INTEGER, dashboard_uid TEXT, org_id INTEGER",
    "preferences": (
        "id INTEGER PRIMARY KEY, org_id INTEGER, user_id INTEGER, version INTEGER, home_dashboard_id INTEGER, "
        "timezone TEXT, theme TEXT"
    ),
}
_ROWS: dict[str, list[tuple[object, ...]]] = {
    "migration_log": [(1, "create user table", "", 1, "", "2026-11-01")],
    "user": [
        (1, 0, "admin", "admin@localhost", "", "59acf18b94d7eb0694c61e60ce44c110c7a6", "s", "r", 1, 1, "", "", "u1"),
        (2, 3, "ada", "ada@example.com", "Ada", "0f", "s", "r", 1, 0, "", "", "u2"),
    ],
    "org": [(1, 0, "Main Org.", "", "")],
    "org_user": [(1, 1, 1, "Admin", "", ""), (2, 1, 2, "Editor", "", "")],
    "folder": [(1, "mine", 1, "Ada\u2019s", "", None, "")],
    "dashboard": [
        (1, 7, "own", "Own", json.dumps({"uid": "own", "panels": [{"type": "stat"}]}), 1, "", "", 0, "mine", "own")
    ],
    "dashboard_version": [(1, 1, 7, "{}", "before the upgrade")],
    "star": [(1, 2, "own", 1)],
    "preferences": [(1, 1, 2, 0, 1, "utc", "light")],
}


def make(path: Path) -> sqlite3.Connection:
    """A database with something in every table, and the connection of a Grafana that has it open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    for table, columns in TABLES.items():
        connection.execute(f'CREATE TABLE "{table}" ({columns})')
        for row in _ROWS[table]:
            places = ", ".join("?" * len(row))
            connection.execute(f'INSERT INTO "{table}" VALUES ({places})', row)  # noqa: S608 - a name of ours
    connection.commit()
    return connection


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        found = {
            table: connection.execute(f'SELECT * FROM "{table}" ORDER BY 1').fetchall()  # noqa: S608 - a name of ours
            for table in TABLES
        }
    connection.close()
    return found
