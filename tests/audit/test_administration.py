"""The trail says what administrators did, and of every token that let anybody in; never a secret."""

import json
from collections import Counter
from datetime import UTC, datetime

import sqlalchemy as sa
from tests.audit.ledgers import change
from tests.audit.trails import full_disk, said
from tests.ledger.booked import DAY, USER, close

from farthing.audit.chain import digest
from farthing.domain.access import Scope
from farthing.ledger import tables as t
from farthing.ledger.erase import erase_user
from farthing.ledger.prune import Retention, prune
from farthing.service.access import Access
from farthing.service.access_tokens import TokenFile, add_token, read_tokens, remove_token
from farthing.service.server import Service
from farthing.settings import Settings


def test_what_administrators_do_is_written_without_a_secret(full, trails, tmp_path, ledger_clock):
    """Tokens, prices, closings, disputes, erasures, pruning, and a ledger that went back."""
    trail = trails(full)
    trail.update()
    secret = add_token(tmp_path / "tokens.yaml", "acme", [Scope.INGEST], [], datetime(2026, 11, 27, tzinfo=UTC))
    close(full)
    erase_user(full.engine, [USER], now_ns=ledger_clock.ns)
    trail = trails(full)
    trail.update()
    remove_token(tmp_path / "tokens.yaml", "acme")
    prune(full.engine, Retention(1, 1, 1, 1), now_ns=ledger_clock.ns + 500 * DAY)
    change(full, sa.delete(t.records).where(t.records.c.id == full.last_id()))
    trails(full).update()
    trail = trails(full)
    trail.update()
    assert trail.view().is_written
    kinds = Counter(one["kind"] for one in said(tmp_path / "trail"))
    for kind in ("token_added", "token_removed", "period_closed", "user_erased", "ledger_went_back"):
        assert kinds[kind] == 1, kind
    assert kinds["price_version"] >= 1
    assert kinds["statement_issued"] >= 2
    assert kinds["statement_marked"] == 1
    assert kinds["ledger_pruned"] > 1
    assert kinds["audit_opened"] == 4
    assert kinds["audit_closed"] == 3
    text = json.dumps(said(tmp_path / "trail"))
    assert secret not in text
    assert digest(secret.encode()) not in text
    assert USER not in json.dumps([one for one in said(tmp_path / "trail") if one["kind"] != "request"])


def tokens_told(folder):
    """What the trail says of tokens, in its order."""
    return [(one["kind"], one["name"], *one.get("scopes", ())) for one in said(folder) if "token_" in one["kind"]]


def test_a_token_that_let_somebody_in_for_a_moment_is_told(ledger, trails, tmp_path):
    """The trail looks once a minute, and the service whenever somebody shows a token."""
    path, now = tmp_path / "tokens.yaml", datetime(2026, 11, 27, tzinfo=UTC)
    add_token(path, "first", [Scope.INGEST], [], now)
    options = Settings(audit={"dir": tmp_path / "trail", "fsync": False}, serve={"tokens_file": path})
    file = TokenFile(path)
    service = Service(options, ledger, Access(file))
    plain = add_token(path, "ghost", [Scope.ADMIN], [], now)
    assert service.access.bearer(plain.encode()) is not None
    remove_token(path, "ghost")
    assert service.access.bearer(plain.encode()) is None
    trail = service._audit
    assert trail is not None
    trail.update()
    trail.close()
    added = ("token_added", "first", "ingest")
    assert tokens_told(tmp_path / "trail") == [added, ("token_added", "ghost", "admin"), ("token_removed", "ghost")]


def test_tokens_whose_states_could_not_be_written_are_told_later(ledger, trails, tmp_path):
    """Each once."""
    path, now = tmp_path / "tokens.yaml", datetime(2026, 11, 27, tzinfo=UTC)
    trail = trails(ledger)
    for name in ("a", "b"):
        add_token(path, name, [Scope.INGEST], [], now)
        trail.note_tokens(read_tokens(path))
        remove_token(path, name)
    trail.note_tokens(read_tokens(path))
    with full_disk(300):
        trail.update()
        trail.update()
    trail.update()
    changes = [("token_added", "a", "ingest"), ("token_removed", "a"), ("token_added", "b", "ingest")]
    assert tokens_told(tmp_path / "trail") == [*changes, ("token_removed", "b")]


def test_a_token_that_may_more_than_before_is_told(ledger, trails, tmp_path):
    """Its scopes were edited in the file. A file that is away lets the same callers in, so nothing is told of it."""
    path = tmp_path / "tokens.yaml"
    add_token(path, "acme", [Scope.READ_TENANT], ["acme"], datetime(2026, 11, 27, tzinfo=UTC))
    trails(ledger).update()
    path.write_text(path.read_text().replace("- acme", "- globex"))
    trail = trails(ledger)
    trail.update()
    path.rename(tmp_path / "away.yaml")
    trail._administration_at = 0.0
    trail.update()
    (tmp_path / "away.yaml").rename(path)
    trails(ledger).update()
    told = [one for one in said(tmp_path / "trail") if "token_" in one["kind"]]
    assert [(one["kind"], one["tenants"]) for one in told] == [("token_added", ["acme"]), ("token_changed", ["globex"])]


def test_a_token_whose_hash_is_another_is_told(ledger, trails, tmp_path):
    """Somebody else is let in by its name."""
    path = tmp_path / "tokens.yaml"
    plain = add_token(path, "acme", [Scope.INGEST], [], datetime(2026, 11, 27, tzinfo=UTC))
    trail = trails(ledger)
    trail.update()
    path.write_text(path.read_text().replace(digest(plain.encode()), digest(b"another")))
    for _ in range(2):
        trail._administration_at = 0.0
        trail.update()
    assert tokens_told(tmp_path / "trail") == [("token_added", "acme", "ingest"), ("token_changed", "acme", "ingest")]


def test_a_ledger_that_went_back_after_a_kill_is_told(ledger, trails, tmp_path, ledger_clock):
    """As a backup that is put in the place of a ledger that was lost: how far it had come is in the trail, by hours."""
    trail = trails(ledger)
    trail.update()
    reached = [one["last_record"] for one in said(tmp_path / "trail") if one["kind"] == "ledger_reached"]
    assert reached == [ledger.last_id()]
    trail._let_go()
    change(ledger, sa.delete(t.records).where(t.records.c.id == ledger.last_id()))
    trails(ledger).update()
    trails(ledger).update()
    back = [one for one in said(tmp_path / "trail") if one["kind"] == "ledger_went_back"]
    assert [(one["last_record"], one["was"]) for one in back] == [(ledger.last_id(), reached[0])]
