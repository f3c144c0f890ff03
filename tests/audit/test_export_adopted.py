"""Exports of a trail that was signed from some day on: what signatures hold of the days before it."""

import pytest
from tests.audit.trails import DAY_NS, DAYS, KEY, NOON, Clock, content, kept_of, opened, write_days

from farthing.audit.chain import HEAD
from farthing.audit.export import export, proof_of
from farthing.audit.proof import check_export
from farthing.audit.verify import verify
from farthing.domain.errors import AuditError

ADOPTED, AFTER = "2026-11-28", "2026-11-29"


@pytest.fixture(scope="module")
def adopted(tmp_path_factory):
    """A trail of three days that was adopted on the fourth, and goes on for a fifth; and what was kept of it."""
    folder = tmp_path_factory.mktemp("adopted") / "trail"
    write_days(folder)
    clock = Clock(NOON + 3 * DAY_NS)
    writer = opened(folder, clock, keys=(KEY,), adopt=True)
    writer.append([content(70)])
    clock.ns += DAY_NS
    writer.append([content(71)])
    writer.close()
    assert verify(folder, keys=(KEY,)).problems == []
    return folder, kept_of(folder)


@pytest.mark.parametrize(
    ("days", "unsigned", "signed"),
    [((DAYS[0], AFTER), 2, 3), ((DAYS[1], DAYS[2]), 1, 1), ((DAYS[2], DAYS[2]), 0, 1), ((DAYS[2], AFTER), 0, 3)],
)
def test_days_before_the_adoption_are_held_by_a_signed_day_after_them(adopted, tmp_path, days, unsigned, signed):
    """Its records go on from theirs; how many they are is told."""
    folder, kept = adopted
    file = tmp_path / "a.jsonl"
    export(folder, file, "jsonl", since=days[0], until=days[1])
    for known in (None, kept):
        seen = check_export(file, (KEY,), known)
        assert (seen.unsigned, seen.signed, seen.days) == (unsigned, signed, unsigned + signed)
    proof = proof_of(file)
    for other in (b"another key, long enough", KEY):
        if other == KEY:
            proof.write_text(proof.read_text().replace("\n+", "\n", 1))
        with pytest.raises(AuditError):
            check_export(file, (other,))


def test_days_that_no_signed_one_follows_need_what_was_kept_elsewhere(adopted, tmp_path):
    """Whoever has no key could have made them."""
    folder, kept = adopted
    file = tmp_path / "a.csv"
    export(folder, file, "csv", since=DAYS[0], until=DAYS[1])
    assert check_export(file).unsigned == 0
    with pytest.raises(AuditError, match=rf"{DAYS[1]} is not signed, and a key was given; export from it to a day"):
        check_export(file, (KEY,))
    seen = check_export(file, (KEY,), kept)
    assert (seen.unsigned, seen.signed, seen.held) == (2, 0, 2)
    write_days(tmp_path / "earlier", days=1)
    loose = kept_of(tmp_path / "earlier")
    with pytest.raises(AuditError, match="is not signed, and a key was given"):
        check_export(file, (KEY,), loose)


def test_a_signature_taken_off_behind_a_signed_day_is_found(adopted, tmp_path):
    """Nothing signed holds what comes after it."""
    folder, _ = adopted
    file = tmp_path / "a.jsonl"
    export(folder, file, "jsonl", since=ADOPTED, until=AFTER)
    lines = proof_of(file).read_text().splitlines(keepends=True)
    kind, before, hash_, _, said = lines[-1].split(" ", 4)
    assert kind == HEAD
    proof_of(file).write_text("".join(lines[:-1]) + f"{kind} {before} {hash_} - {said}")
    with pytest.raises(AuditError, match="is not signed, and those before it are"):
        check_export(file, (KEY,))


def test_another_day_before_a_signed_one_is_found(adopted, tmp_path):
    """Made by somebody without the key, whole in itself."""
    folder, _ = adopted
    write_days(tmp_path / "forged", days=1)
    clock = Clock(NOON + DAY_NS)
    writer = opened(tmp_path / "forged", clock)
    writer.append([content(number) for number in range(90, 94)])
    clock.ns += DAY_NS
    writer.append([])
    writer.close()
    export(folder, tmp_path / "a.jsonl", "jsonl", since=DAYS[1], until=DAYS[2])
    export(tmp_path / "forged", tmp_path / "b.jsonl", "jsonl", since=DAYS[1], until=DAYS[1])
    proofs = [proof_of(tmp_path / name).read_text().splitlines(keepends=True) for name in ("a.jsonl", "b.jsonl")]
    at = next(place for place, line in enumerate(proofs[0]) if line.startswith(f"day {DAYS[2]}"))
    assert proofs[1][-1].startswith("anchor ")
    last = proofs[1][-1].split('"last":"')[1][:64]
    begins = " ".join([*proofs[0][at].split(" ")[:3], last]) + "\n"
    proof_of(tmp_path / "a.jsonl").write_text("".join([*proofs[1], begins, *proofs[0][at + 1 :]]))
    bodies = [(tmp_path / name).read_text().splitlines(keepends=True) for name in ("a.jsonl", "b.jsonl")]
    (tmp_path / "a.jsonl").write_text("".join([*bodies[1], *bodies[0][5:]]))
    with pytest.raises(AuditError, match="do not lead to this anchor"):
        check_export(tmp_path / "a.jsonl", (KEY,))


def test_an_export_of_no_day_proves_nothing(adopted, tmp_path):
    """And is not green."""
    folder, _ = adopted
    export(folder, tmp_path / "a.csv", "csv", since="2020-01-01", until="2020-01-02")
    with pytest.raises(AuditError, match="is of no day, so nothing is proved"):
        check_export(tmp_path / "a.csv")
