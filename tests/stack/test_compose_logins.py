"""What the parts of the Compose stack ask each other with: files of secrets, and never the secrets themselves."""

from datetime import UTC, datetime
from pathlib import Path

import bcrypt
import yaml

from farthing.stack.scrape import Logins, render_prometheus
from farthing.stack.secret_files import init_secrets


def prometheus(**given):
    """Prometheus' configuration with these logins."""
    text = render_prometheus(
        rule_files=[], farthing_address="f:1", alertmanager_address="a:2", interval_seconds=5, **given
    )
    return yaml.safe_load(text)


def test_prometheus_shows_farthing_a_token_and_alertmanager_a_password_from_files():
    """Both are read again at each scrape or notification, so that changing one needs no restart."""
    config = prometheus(logins=Logins("/s/token", alertmanager_password_file="/s/password", alertmanager_user="me"))
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert jobs["farthing"]["authorization"] == {"credentials_file": "/s/token"}
    assert "authorization" not in jobs["llm-engines"]
    (alertmanager,) = config["alerting"]["alertmanagers"]
    assert alertmanager["basic_auth"] == {"username": "me", "password_file": "/s/password"}
    assert alertmanager["static_configs"] == [{"targets": ["a:2"]}]


def test_prometheus_asks_without_a_login_where_none_is_demanded():
    """As in a native stack whose service is open on loopback."""
    text = str(prometheus())
    assert "authorization" not in text
    assert "basic_auth" not in text


NOW = datetime(2026, 11, 27, tzinfo=UTC)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_jaeger_gets_a_hash_that_it_can_read_and_grafana_the_password(tmp_path):
    """The basicauth extension knows bcrypt by the prefixes 2a and 2y (AcceptBcrypt of tg123/go-htpasswd)."""
    init_secrets(tmp_path, NOW)
    password = (tmp_path / "jaeger/password").read_text().strip()
    assert password == (tmp_path / "grafana/jaeger-password").read_text().strip()
    user, hashed = (tmp_path / "jaeger/htpasswd").read_text().strip().split(":")
    assert user == "farthing"
    assert hashed.startswith("$2a$")
    assert bcrypt.checkpw(password.encode(), hashed.encode())


def test_secrets_that_are_there_stay_and_one_that_is_spoilt_is_made_anew(tmp_path):
    """The one-shot service runs before every start."""
    init_secrets(tmp_path, NOW)
    before = contents(tmp_path)
    init_secrets(tmp_path, NOW)
    assert contents(tmp_path) == before
    (tmp_path / "jaeger/htpasswd").unlink()
    (tmp_path / "jaeger/htpasswd").write_text("farthing:spoilt")
    init_secrets(tmp_path, NOW)
    after = contents(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"jaeger/htpasswd"}
