"""An export can be proved: every record of it is the trail's, without showing the others."""

import csv
import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.audit.trails import DAY_NS, DAYS, KEY, NOON, Clock, append_to, content, kept_of, opened, write_days

from farthing.audit.chain import GENESIS, HEAD, digest, file_name, link, signed_line
from farthing.audit.export import COLUMNS, export, proof_of
from farthing.audit.proof import check_export
from farthing.audit.reading import Anchors, read_anchors, read_head
from farthing.audit.records import event
from farthing.audit.verify import Kept, verify
from farthing.domain.errors import AuditError

properties = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A signed trail that is only read."""
    folder = tmp_path_factory.mktemp("exported") / "trail"
    write_days(folder, keys=(KEY,))
    return folder


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_tenants_records_are_exported_and_proved(folder, tmp_path, form):
    """Of two days of three, the last one open."""
    file = tmp_path / f"acme.{form}"
    done = export(folder, file, form, since=DAYS[1], until=DAYS[2], tenant="acme")
    assert (done.records, done.others, done.days) == (4, 6, 2)
    checked = check_export(file, (KEY,))
    assert (checked.records, checked.others, checked.days, checked.signed) == (4, 6, 2, 2)
    assert "globex" not in file.read_text() + proof_of(file).read_text()


def test_without_a_tenant_everything_is_exported(folder, tmp_path):
    """Events too; every column of the CSV is what the record says."""
    file = tmp_path / "all.csv"
    assert export(folder, file, "csv", since=DAYS[0], until=DAYS[2]).records == 15
    rows = list(csv.DictReader(file.open()))
    assert [row["n"] for row in rows] == [str(number) for number in range(1, 16)]
    record = json.loads(rows[1]["record"])
    assert set(record) <= set(COLUMNS)
    assert rows[1]["cost_nano"] == str(record["cost_nano"]) == "3000"
    assert rows[1]["methods"] == "modelled"


@properties
@given(data=st.data(), form=st.sampled_from(["csv", "jsonl"]))
def test_a_flipped_bit_of_an_export_or_its_proof_is_found(folder, tmp_path_factory, data, form):
    """Of any byte."""
    file = tmp_path_factory.mktemp("flipped") / f"some.{form}"
    export(folder, file, form, since=DAYS[0], until=DAYS[1], tenant="acme")
    path = data.draw(st.sampled_from([file, proof_of(file)]))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(AuditError):
        check_export(file, (KEY,))


@pytest.mark.parametrize(("day", "other"), [(DAYS[0], DAYS[1]), (DAYS[2], "2026-11-28")])
def test_a_day_under_another_days_name_is_found(folder, tmp_path, day, other):
    """One that is over as the one that goes on: what their records lead to says which day it is of."""
    file = tmp_path / "acme.jsonl"
    export(folder, file, "jsonl", since=day, until=day, tenant="acme")
    proof = proof_of(file)
    proof.write_text(proof.read_text().replace(f"day {day} ", f"day {other} ", 1))
    with pytest.raises(AuditError, match="the records do not lead to this"):
        check_export(file, (KEY,))


class TestDays:
    """Days of an export follow each other, each from its first record to its last."""

    @pytest.fixture
    def exported(self, folder, tmp_path):
        """All records, the proof's lines and the file's by day, and a way to write others in their place."""
        file = tmp_path / "all.jsonl"
        export(folder, file, "jsonl", since=DAYS[0], until=DAYS[2])
        lines = proof_of(file).read_text().splitlines(keepends=True)
        begins = [place for place, line in enumerate(lines) if line.startswith("day ")]
        days = [lines[begin:end] for begin, end in pairwise([*begins, len(lines)])]
        bodies = file.read_text().splitlines(keepends=True)

        def write(*which):
            proof_of(file).write_text("".join([lines[0], *(line for one in which for line in days[one])]))
            file.write_text("".join(body for one in which for body in bodies[one * 5 : one * 5 + 5]))
            return file

        return write

    def test_those_that_follow_are_taken(self, exported):
        """From the trail's first day on."""
        assert check_export(exported(0, 1, 2), (KEY,)).records == 15
        seen = check_export(exported(0, 1), (KEY,))
        assert (seen.first, seen.last, seen.records) == (DAYS[0], DAYS[1], 10)

    @pytest.mark.parametrize("which", [(0, 0, 1, 2), (1, 0, 2), (0, 2), (1, 2), (0, 1, 2, 2), (2, 1)])
    def test_doubled_swapped_and_missing_ones_are_found(self, exported, which):
        """With the key, too: each of them is signed."""
        with pytest.raises(AuditError, match="does not go on where the day before it ended"):
            check_export(exported(*which), (KEY,))

    @pytest.mark.parametrize("day", DAYS)
    def test_a_day_that_begins_late_is_found(self, folder, tmp_path, day):
        """Its first records left out, and the hash before the others put in their place; the last day has a head."""
        file = tmp_path / "all.jsonl"
        export(folder, file, "jsonl", since=day, until=day)
        lines = proof_of(file).read_text().splitlines(keepends=True)
        at = next(place for place, line in enumerate(lines) if line.startswith("day "))
        _, _, first, hash_ = lines[at].split()
        hash_ = link(hash_, lines[at + 1].split()[1])
        late = f"day {day} {int(first) + 1} {hash_}\n"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
        for before in (lines[1:at], []):
            proof_of(file).write_text("".join([lines[0], *before, late, *lines[at + 2 :]]))
            with pytest.raises(AuditError, match=r"does not go on|do not lead to"):
                check_export(file, (KEY,))


class TestKept:
    """What was kept elsewhere says whose trail an export is of."""

    @pytest.fixture
    def kept(self, folder):
        """What ``farthing audit anchors`` printed."""
        return kept_of(folder)

    @pytest.mark.parametrize(("since", "held"), [(DAYS[0], 3), (DAYS[1], 2), (DAYS[2], 1)])
    def test_an_export_of_the_same_trail_fits(self, folder, tmp_path, kept, since, held):
        """Also the day that goes on, as far as it had come."""
        export(folder, tmp_path / "all.jsonl", "jsonl", since=since, until=DAYS[2])
        seen = check_export(tmp_path / "all.jsonl", kept=kept)
        assert (seen.days, seen.held, seen.loose) == (held, held, [])

    @pytest.mark.parametrize("day", DAYS)
    def test_one_of_a_trail_that_was_made_anew_does_not(self, tmp_path, kept, day):
        """Whole in itself, and signed with the operator's key."""
        write_days(tmp_path / "forged", keys=(KEY,), records=5)
        file = tmp_path / "all.jsonl"
        export(tmp_path / "forged", file, "jsonl", since=day, until=day)
        assert check_export(file, (KEY,)).days == 1
        with pytest.raises(AuditError, match="kept elsewhere"):
            check_export(file, (KEY,), kept)

    def test_what_came_after_is_told_and_what_never_was_is_found(self, tmp_path, kept):
        """A day in between that nobody kept."""
        write_days(tmp_path / "longer", keys=(KEY,), days=5)
        file = tmp_path / "all.jsonl"
        export(tmp_path / "longer", file, "jsonl", since=DAYS[2], until="2026-11-29")
        seen = check_export(file, kept=kept)
        assert (seen.held, seen.loose) == (1, ["2026-11-28", "2026-11-29"])
        gap = Kept(Anchors(), kept.head)
        export(tmp_path / "longer", tmp_path / "first.jsonl", "jsonl", since=DAYS[0], until=DAYS[0])
        with pytest.raises(AuditError, match="is not among the days of the anchors that were kept elsewhere"):
            check_export(tmp_path / "first.jsonl", kept=gap)

    def test_an_export_made_before_a_day_was_over_is_compared_with_where_it_began(self, tmp_path, kept):
        """Its end is nowhere among what was kept, unless it is the day's."""
        write_days(tmp_path / "earlier", keys=(KEY,), days=2)
        file = tmp_path / "all.jsonl"
        export(tmp_path / "earlier", file, "jsonl", since=DAYS[1], until=DAYS[1])
        assert check_export(file, kept=kept).held == 1
        write_days(tmp_path / "shorter", keys=(KEY,), days=2, records=3)
        export(tmp_path / "shorter", tmp_path / "other.jsonl", "jsonl", since=DAYS[1], until=DAYS[1])
        with pytest.raises(AuditError, match="is not the anchor that was kept elsewhere"):
            check_export(tmp_path / "other.jsonl", kept=kept)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_names_of_any_characters_come_back_as_they_were(tmp_path, form):
    """A carriage return, which ends a row for a spreadsheet, and half a surrogate, which no text has."""
    names = ("a\rb", "a\r\nb", "\r=1", "a\0b", "\u2028", '"', "\ud800", "\ufeffx")
    writer = opened(tmp_path / "trail")
    writer.append([content(place, NOON, request_id=name) for place, name in enumerate(names)])
    writer.append([event("token_added", NOON, tenants=[f"t{one:06}" for one in range(20_000)])])
    writer.close()
    file = tmp_path / f"a.{form}"
    export(tmp_path / "trail", file, form, since=DAYS[0], until=DAYS[0])
    assert b"\r" not in file.read_bytes()
    assert check_export(file).records == len(names) + 2


@pytest.mark.parametrize("record", ["[" * 100_000, "9" * 5_000, '{"n":[' + "[" * 500, "{}", "[]", "\udcff"])
def test_a_hostile_csv_ends_in_one_clear_error(folder, tmp_path, record):
    """Whatever its cells hold."""
    file = tmp_path / "all.csv"
    export(folder, file, "csv", since=DAYS[0], until=DAYS[0])
    row = ",".join(["1"] * len(COLUMNS) + ['"' + record.replace('"', '""') + '"'])
    file.write_text(file.read_text().split("\n")[0] + f"\n{row}\n", errors="surrogateescape")
    with pytest.raises(AuditError):
        check_export(file)


@pytest.mark.parametrize("body", [b'{"n":6,"kind":' + b"[" * 100_000, b'{"n":6,"a":"\xff"}', b'{"n":6,"a":1}'])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_record_that_is_none_is_not_exported(tmp_path, form, body):
    """Of a trail that somebody else wrote, every hash of it right; and nothing half-done stays."""
    write_days(tmp_path / "trail", days=1)
    path = tmp_path / "trail" / file_name(DAYS[0])
    head, _ = read_head(tmp_path / "trail", ())
    assert head is not None
    hash_ = link(head.content["hash"], digest(body))
    with path.open("ab") as file:
        file.write(b"%b %b\n" % (hash_.encode(), body))
    said = {**head.content, "n": 6, "hash": hash_, "bytes": path.stat().st_size}
    (tmp_path / "trail" / HEAD).write_bytes(signed_line(HEAD, GENESIS, said, None).line)
    assert verify(tmp_path / "trail").problems == []
    made = tmp_path / f"a.{form}"
    with pytest.raises(AuditError, match="its form is another"):
        export(tmp_path / "trail", made, form, since=DAYS[0], until=DAYS[0], tenant="acme")
    assert not made.exists()
    assert not proof_of(made).exists()


def test_a_day_that_is_over_while_it_is_exported_has_its_anchor(tmp_path, monkeypatch):
    """The writer goes on to the next day between two readings."""
    clock = Clock()
    writer = opened(tmp_path / "trail", clock)
    writer.append([content(1)])

    def turning(reading):
        def read(folder, keys):
            found = reading(folder, keys)
            clock.ns = NOON + DAY_NS
            writer.append([content(2, clock.ns)])
            return found

        return read

    for reading in (read_head, read_anchors):
        monkeypatch.setattr(f"farthing.audit.export.{reading.__name__}", turning(reading))
    export(tmp_path / "trail", tmp_path / "a.jsonl", "jsonl", since=DAYS[0], until=DAYS[1])
    assert check_export(tmp_path / "a.jsonl").first == DAYS[0]
    writer.close()


def test_a_day_that_is_gone_is_not_passed_over(tmp_path):
    """At the end of what is asked for as in its middle."""
    write_days(tmp_path / "trail")
    (tmp_path / "trail" / file_name(DAYS[1])).unlink()
    for until in (DAYS[1], DAYS[2]):
        with pytest.raises(AuditError, match=f"{DAYS[1]}.audit is gone"):
            export(tmp_path / "trail", tmp_path / "a.csv", "csv", since=DAYS[0], until=until)


def test_a_record_left_out_of_an_export_is_found(folder, tmp_path):
    """As one that is put in."""
    file = tmp_path / "acme.jsonl"
    export(folder, file, "jsonl", since=DAYS[0], until=DAYS[2], tenant="acme")
    lines = file.read_text().splitlines(keepends=True)
    for changed in (lines[:-1], lines[1:], [*lines, lines[0]]):
        file.write_text("".join(changed))
        with pytest.raises(AuditError):
            check_export(file)


def test_an_export_proves_nothing_under_another_key(folder, tmp_path):
    """Whoever made it does not have the operator's."""
    file = tmp_path / "acme.jsonl"
    export(folder, file, "jsonl", since=DAYS[0], until=DAYS[2])
    with pytest.raises(AuditError, match="not signed with the key"):
        check_export(file, (b"another key, long enough",))


def test_an_altered_trail_is_not_exported(tmp_path):
    """What cannot be proved is not given to anybody."""
    write_days(tmp_path / "trail")
    path = tmp_path / "trail" / file_name(DAYS[1])
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"acme", b"acne", 1))
    with pytest.raises(AuditError, match=r"2026-11-26\.audit:2: was altered"):
        export(tmp_path / "trail", tmp_path / "all.csv", "csv", since=DAYS[0], until=DAYS[2])


def test_a_name_that_a_spreadsheet_would_compute_is_shown_as_text(tmp_path):
    """Senders choose request ids."""
    append_to(tmp_path / "trail", [content(0, NOON, request_id='=HYPERLINK("http://evil")', tenant='a,\n\u2028"b')])
    export(tmp_path / "trail", tmp_path / "a.csv", "csv", since=DAYS[0], until=DAYS[0])
    row = list(csv.DictReader((tmp_path / "a.csv").open(newline="")))[1]
    assert row["request_id"].startswith("'=")
    assert check_export(tmp_path / "a.csv").records == 2
