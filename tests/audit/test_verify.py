"""What was done to a trail is found, whatever it was, and the place is named."""

import re
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.audit.trails import DAY_NS, DAYS, KEY, NOON, Clock, append_to, content, kept_of, opened, write_days

from farthing.audit.chain import ANCHORS, GENESIS, HEAD, file_name, parse_signed, signed_line
from farthing.audit.reading import REMOVED, parse_anchors
from farthing.audit.verify import parse_kept, verify
from farthing.domain.errors import AuditError

FILES = (*(file_name(day) for day in DAYS), ANCHORS, HEAD)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A trail of three days that no test changes, each file by its name, and the folder that tests write into."""
    folder = tmp_path_factory.mktemp("original") / "trail"
    write_days(folder)
    return {name: (folder / name).read_bytes() for name in FILES}, tmp_path_factory.mktemp("changed")


@pytest.fixture(scope="module")
def kept(original):
    """What ``farthing audit anchors`` printed of it."""
    files, _ = original
    return parse_kept(files[ANCHORS] + files[HEAD], "kept")


def found(original, changes, **options):
    """The problems of the trail with some files changed, or gone (None)."""
    files, folder = original
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in {**files, **changes}.items():
        if data is not None:
            (folder / name).write_bytes(data)
    return verify(folder, **options).problems


def lines_of(original, name):
    """The lines of a file."""
    return original[0][name].splitlines(keepends=True)


def head_of(original):
    """What the head says."""
    head, _ = parse_signed(HEAD, GENESIS, original[0][HEAD], ())
    assert head is not None
    return head.content


def removal(original, **said):
    """The anchors with a line more: that the first two days were removed, or what ``said`` makes of it."""
    known = parse_anchors(original[0][ANCHORS], ())
    old = known.days[DAYS[1]].content
    whole = {"a": 3, "kind": REMOVED, "at": "2026-11-27T12:00:00.000000000Z", "through": DAYS[1], "days": 2}
    whole |= {"records": 10, "last": old["last"], **said}
    return original[0][ANCHORS] + signed_line(ANCHORS, known.last, whole, None).line


properties = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)


def test_an_untouched_trail_has_nothing_wrong(original, kept):
    """Every record of every day is read."""
    assert found(original, {}) == []
    assert found(original, {}, kept=kept) == []
    seen = verify(original[1])
    assert (seen.records, seen.days, seen.last) == (15, 3, 15)


@properties
@given(data=st.data())
def test_a_flipped_bit_is_found_in_the_file_that_it_is_in(original, data):
    """Of any byte, of any file: records, anchors, head."""
    name = data.draw(st.sampled_from(FILES))
    content = bytearray(original[0][name])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    problems = found(original, {name: bytes(content)})
    assert name in {problem.file for problem in problems}
    if name not in {ANCHORS, HEAD}:
        line = original[0][name][:place].count(b"\n") + 1
        assert problems[0].line == line
        assert len(problems) <= 2, [str(one) for one in problems]


@properties
@given(data=st.data())
def test_a_record_that_is_removed_is_found_where_it_was(original, data):
    """Any of any day; at a day's end its number is told."""
    name = data.draw(st.sampled_from(FILES[:3]))
    lines = lines_of(original, name)
    place = data.draw(st.integers(0, len(lines) - 1))
    [problem] = [
        one for one in found(original, {name: b"".join(lines[:place] + lines[place + 1 :])}) if one.file == name
    ]
    if place < len(lines) - 1:
        assert problem.line == place + 1
        assert "removed" in problem.what
    else:
        assert "1 records are missing at the day's end" in problem.what


@properties
@given(data=st.data())
def test_records_that_are_swapped_or_put_in_are_found(original, data):
    """In one file, or from one into another."""
    name = data.draw(st.sampled_from(FILES[:3]))
    lines = lines_of(original, name)
    other = lines_of(original, data.draw(st.sampled_from(FILES[:3])))
    place = data.draw(st.integers(0, len(lines) - 1))
    if data.draw(st.booleans()):
        second = data.draw(st.integers(0, len(lines) - 1).filter(lambda one: one != place))
        changed = [*lines]
        changed[place], changed[second] = changed[second], changed[place]
    else:
        changed = [*lines[:place], data.draw(st.sampled_from(other)), *lines[place:]]
    problems = found(original, {name: b"".join(changed)})
    assert name in {problem.file for problem in problems}


@properties
@given(data=st.data())
def test_a_file_that_is_cut_off_anywhere_is_found(original, data):
    """Also the last day's, at the end of a record, and the anchors."""
    name = data.draw(st.sampled_from(FILES))
    content = original[0][name]
    size = data.draw(st.integers(0, len(content) - 1))
    problems = found(original, {name: content[:size]})
    assert problems
    assert {problem.file for problem in problems} == {name}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_deleted_is_named(original, name):
    """Any day's, the last one's too."""
    problems = found(original, {name: None})
    assert problems
    assert any(problem.file in {name, HEAD} for problem in problems)


def test_a_line_that_stands_in_the_others_place_is_found(original):
    """The first anchor as the head, whose hash is right there too, and the head among the anchors."""
    anchor, head = lines_of(original, ANCHORS)[0], original[0][HEAD]
    assert HEAD in {problem.file for problem in found(original, {HEAD: anchor})}
    assert ANCHORS in {problem.file for problem in found(original, {ANCHORS: head})}


def test_the_whole_of_the_last_day_taken_back_needs_what_was_kept_elsewhere(original, kept, tmp_path):
    """Somebody who can write all files can go back to yesterday's; only what was kept tells."""
    write_days(tmp_path / "earlier", days=2)
    earlier = {name: (tmp_path / "earlier" / name).read_bytes() for name in (ANCHORS, HEAD, FILES[1])}
    changes = {**earlier, FILES[2]: None}
    assert found(original, changes) == []
    problems = found(original, changes, kept=kept)
    assert any("kept elsewhere" in problem.what for problem in problems)


def test_a_forged_trail_is_found_by_what_was_kept_elsewhere(original, kept, tmp_path):
    """All hashes made anew over another content."""
    write_days(tmp_path / "forged", records=5)
    forged = {name: (tmp_path / "forged" / name).read_bytes() for name in FILES}
    assert found(original, forged) == []
    assert any("kept elsewhere" in problem.what for problem in found(original, forged, kept=kept))


def test_a_head_that_was_put_back_is_found_and_what_comes_after_it_is_told(tmp_path):
    """Whoever kept an earlier one, signed as it is, could write what they like after it."""
    folder = tmp_path / "trail"
    write_days(folder, keys=(KEY,), days=1)
    first = (folder / HEAD).read_bytes()
    clock = Clock()
    writer = opened(folder, clock, keys=(KEY,))
    writer.append([content(9)])
    writer.append([content(10)])
    latest = (folder / HEAD).read_bytes()
    (folder / HEAD).write_bytes(first)
    seen = verify(folder, keys=(KEY,))
    assert seen.problems == []
    assert seen.notes == [f"{file_name(DAYS[0])}: 2 records come after the last that head names"]
    (folder / HEAD).write_bytes(latest)
    clock.ns = NOON + DAY_NS
    writer.append([content(11)])
    clock.ns = NOON + 2 * DAY_NS
    writer.append([content(12)])
    writer.close()
    assert verify(folder, keys=(KEY,)).problems == []
    (folder / HEAD).write_bytes(latest)
    problem = verify(folder, keys=(KEY,)).problems[0]
    assert str(problem) == f"head:1: is of {DAYS[0]}, and anchors go on to {DAYS[1]}: it was put back"


class TestKept:
    """What was kept elsewhere is looked for, whatever the trail itself says is there."""

    def test_its_last_day_may_not_be_missing(self, tmp_path):
        """Somebody with the key wrote another trail, which begins later."""
        write_days(tmp_path / "trail", days=1)
        kept = kept_of(tmp_path / "trail")
        shutil.rmtree(tmp_path / "trail")
        append_to(tmp_path / "trail", [content(one) for one in range(9)], Clock(NOON + DAY_NS))
        assert verify(tmp_path / "trail").problems == []
        [problem] = verify(tmp_path / "trail", kept=kept).problems
        assert str(problem) == f"{ANCHORS}: record 5: has no line for {DAYS[0]}, whose record 5 was kept elsewhere"

    def test_its_last_day_is_read_whatever_days_are_asked_for(self, tmp_path):
        """A trail that goes on longer holds another record in the place of the last."""
        append_to(tmp_path / "trail", [content(99)])
        kept = kept_of(tmp_path / "trail")
        shutil.rmtree(tmp_path / "trail")
        write_days(tmp_path / "trail")
        seen = verify(tmp_path / "trail", kept=kept, since=DAYS[2])
        assert [(one.file, one.record) for one in seen.problems] == [(file_name(DAYS[0]), 2)]
        assert seen.days == 2

    def test_a_day_that_ends_before_its_last_record_is_found_though_it_is_removed(self, tmp_path):
        """The anchor says how the day ended."""
        write_days(tmp_path / "trail", days=1, records=9)
        kept = kept_of(tmp_path / "trail")
        shutil.rmtree(tmp_path / "trail")
        write_days(tmp_path / "trail")
        writer = opened(tmp_path / "trail", Clock(NOON + 2 * DAY_NS))
        assert writer.remove_before(DAYS[2]) == 2
        writer.close()
        problem, other = verify(tmp_path / "trail", kept=kept).problems
        assert "record 10, which was kept elsewhere" in problem.what
        assert "cannot be compared" in other.what

    def test_what_was_removed_since_is_told(self, tmp_path):
        """Its anchors are compared, the day's of its last record too, whose records are gone as retention says."""
        write_days(tmp_path / "trail")
        head = (tmp_path / "trail" / HEAD).read_bytes()
        writer = opened(tmp_path / "trail", Clock(NOON + 3 * DAY_NS))
        writer.append([content(50)])
        # as `farthing audit anchors` does it, while a day ends
        kept = parse_kept((tmp_path / "trail" / ANCHORS).read_bytes() + head, "kept")
        writer.remove_before("2026-11-28")
        writer.close()
        seen = verify(tmp_path / "trail", kept=kept)
        assert seen.problems == []
        assert "compared with what was kept elsewhere: 3 anchors and record 15" in seen.notes[0]
        assert "removed with its day" in seen.notes[1]

    def test_a_day_that_was_removed_before_its_anchor_was_kept_cannot_be_compared(self, tmp_path):
        """Else a day could be written anew, and then be told as removed with an anchor of its own."""
        write_days(tmp_path / "trail", days=2)
        kept = kept_of(tmp_path / "trail")
        shutil.rmtree(tmp_path / "trail")
        write_days(tmp_path / "trail", days=1)
        clock = Clock(NOON + DAY_NS)
        writer = opened(tmp_path / "trail", clock)
        writer.append([content(one) for one in range(500, 509)])
        clock.ns += DAY_NS
        writer.append([content(600)])
        [problem] = verify(tmp_path / "trail", kept=kept).problems
        assert (problem.file, problem.record) == (file_name(DAYS[1]), 10)
        writer.remove_before(DAYS[2])
        writer.close()
        [problem] = verify(tmp_path / "trail", kept=kept).problems
        assert (problem.file, problem.record) == (file_name(DAYS[1]), 10)
        assert "cannot be compared: 2026-11-26 was removed, and its anchor was not kept" in problem.what

    def test_a_day_whose_file_is_gone_without_a_removal_is_told_once(self, tmp_path):
        """Nothing was removed by retention, and nothing says so."""
        write_days(tmp_path / "trail")
        (tmp_path / "kept").mkdir()
        write_days(tmp_path / "kept", days=2)
        (tmp_path / "trail" / file_name(DAYS[1])).unlink()
        [problem] = verify(tmp_path / "trail", kept=kept_of(tmp_path / "kept")).problems
        assert str(problem) == f"{file_name(DAYS[1])}: the file of this day is gone"

    def test_it_does_not_stand_in_for_the_head(self, original, kept):
        """A head that names another record of the same number is found beside it."""
        forged = signed_line(HEAD, GENESIS, {**head_of(original), "hash": GENESIS}, None).line
        [problem] = found(original, {HEAD: forged}, kept=kept)
        assert "is not the record that head names" in problem.what


class TestRemoved:
    """That days were removed is not believed on the word of whoever can write the anchors."""

    @pytest.mark.parametrize(
        ("said", "words"),
        [
            ({"through": "9999-12-31"}, "none before it is of that day"),
            ({"through": DAYS[2]}, "none before it is of that day"),
            ({"days": 1}, "something else of them"),
            ({"records": 11}, "something else of them"),
            ({"last": GENESIS}, "something else of them"),
            ({"at": "2026-11-26T23:59:59.000000000Z"}, "before they were over"),
            ({"through": "../" + DAYS[1]}, "something else than it has to"),
            ({"last": "\ud800" * 64}, "something else than it has to"),
        ],
    )
    def test_a_removal_that_its_days_do_not_bear_out_is_a_problem(self, original, said, words):
        """And the days that are gone are named."""
        changed = removal(original, **said)
        problems = found(original, {ANCHORS: changed, file_name(DAYS[0]): None, file_name(DAYS[1]): None})
        assert (problems[0].file, problems[0].line) == (ANCHORS, 3)
        assert words in problems[0].what
        assert [one.file for one in problems[1:]] == [file_name(DAYS[0]), file_name(DAYS[1])]

    def test_a_removal_that_is_borne_out_is_told(self, original):
        """An unsigned trail can say no more."""
        assert found(original, {ANCHORS: removal(original), **dict.fromkeys(map(file_name, DAYS[:2]))}) == []
        assert verify(original[1]).removed == DAYS[1]

    def test_the_file_of_a_day_that_was_removed_is_read_while_it_is_there(self, original):
        """As after a kill between saying and removing, or where somebody altered it and wants nobody to look."""
        assert found(original, {ANCHORS: removal(original)}) == []
        seen = verify(original[1])
        assert [note.split(" ")[0] for note in seen.notes] == [file_name(DAYS[0]), file_name(DAYS[1])]
        altered = original[0][file_name(DAYS[0])].replace(b"acme", b"acne", 1)
        problems = found(original, {ANCHORS: removal(original), file_name(DAYS[0]): altered})
        assert [(one.file, one.line) for one in problems] == [(file_name(DAYS[0]), 2)]


def test_a_file_that_no_anchor_knows_is_found(original, tmp_path):
    """Of an earlier day, whole in itself, and cleared away with a removal if need be."""
    write_days(tmp_path / "other", days=1)
    other = (tmp_path / "other" / file_name(DAYS[0])).read_bytes()
    problems = found(original, {"2026-11-24.audit": other})
    assert "has no line for 2026-11-24" in problems[0].what


def test_a_carriage_return_ends_no_anchor(original):
    """What comes after it is read."""
    data = original[0][ANCHORS]
    problems = found(original, {ANCHORS: b"x\r" + data})
    first = next(one for one in problems if one.file == ANCHORS)
    assert (first.line, first.what) == (1, "is not of the form HASH MAC JSON")


def test_an_unfinished_anchor_is_told(original):
    """A kill leaves one, and it says nothing."""
    assert found(original, {ANCHORS: original[0][ANCHORS] + b"0" * 70}) == []
    assert verify(original[1]).notes == ["anchors: an unfinished last line, which the next start cuts"]


@pytest.mark.parametrize("number", [b"1", b"9", b"13"])
def test_an_altered_number_is_one_problem(original, number):
    """What comes after it is judged by its own."""
    name = file_name(DAYS[0])
    [problem] = found(original, {name: original[0][name].replace(b'{"n":3,', b'{"n":%b,' % number)})
    assert problem.line == 3


class TestSigned:
    """Signatures keep out whoever can write every file and does not have the key."""

    @pytest.fixture
    def signed(self, tmp_path):
        """A signed trail."""
        write_days(tmp_path / "trail", keys=(KEY,))
        return tmp_path / "trail"

    def test_it_verifies_with_its_key_and_says_where_none_is_given(self, signed):
        """Without the key hashes alone are checked, and that is told."""
        seen = verify(signed, keys=(KEY,))
        assert (seen.problems, seen.signed, seen.notes) == ([], True, [])
        seen = verify(signed)
        assert (seen.problems, seen.signed) == ([], False)
        assert "no key was given" in seen.notes[0]

    def test_another_key_is_refused_and_one_of_several_is_enough(self, signed):
        """Keys are changed by putting a new one before the old."""
        assert verify(signed, keys=(b"another key, long enough",)).problems
        assert verify(signed, keys=(b"another key, long enough", KEY)).problems == []

    @pytest.mark.parametrize("keys", [(), (b"the forger's own, long enough",)])
    def test_a_trail_made_anew_without_the_key_is_found(self, tmp_path, keys):
        """Though every hash in it is right."""
        write_days(tmp_path / "forged", keys=keys, records=3)
        assert verify(tmp_path / "forged").problems == []
        problems = verify(tmp_path / "forged", keys=(KEY,)).problems
        assert HEAD in {problem.file for problem in problems}

    def test_an_anchor_that_lost_its_signature_is_found(self, signed):
        """Unsigned ones may only come before the first signed."""
        lines = (signed / ANCHORS).read_bytes().splitlines(keepends=True)
        parts = lines[1].split(b" ", 2)
        (signed / ANCHORS).write_bytes(lines[0] + b" ".join([parts[0], b"-", parts[2]]))
        assert "is not signed" in str(verify(signed, keys=(KEY,)).problems[0])

    def test_an_unsigned_anchor_behind_a_signed_head_is_found(self, tmp_path):
        """Before the first day is over none is signed, and the head knows of none."""
        write_days(tmp_path / "trail", keys=(KEY,), days=1)
        write_days(tmp_path / "forged", days=2)
        shutil.copy(tmp_path / "forged" / ANCHORS, tmp_path / "trail")
        for keys in ((), (KEY,)):
            problems = verify(tmp_path / "trail", keys=keys).problems
            assert "is not signed, and head, which does not know it, is" in str(problems[0])

    def test_unsigned_anchors_that_a_signed_head_leads_to_are_told(self, original, tmp_path):
        """Whoever signed it took them over as they were."""
        found(original, {HEAD: signed_line(HEAD, GENESIS, head_of(original), KEY).line})
        seen = verify(original[1], keys=(KEY,))
        assert seen.problems == []
        told = f"anchors of days to {DAYS[1]} are not signed: whoever signed {HEAD} took them as they were"
        assert seen.notes == [told]

    def test_a_head_that_lost_its_signature_is_found_without_a_key(self, signed):
        """Its anchors have theirs."""
        parts = (signed / HEAD).read_bytes().split(b" ", 2)
        (signed / HEAD).write_bytes(b" ".join([parts[0], b"-", parts[2]]))
        assert [str(one) for one in verify(signed).problems] == ["head:1: is not signed, and anchors are"]


def test_sha256sum_alone_verifies_a_day(original):
    """As docs/audit.md shows: an auditor needs nothing of Farthing's."""
    found(original, {})
    script = """
    set -eu
    previous=$1
    while read -r hash json; do
      digest=$(printf %s "$json" | sha256sum | cut -c1-64)
      test "$(printf '%s %s' "$previous" "$digest" | sha256sum | cut -c1-64)" = "$hash"
      previous=$hash
    done < "$2"
    echo "$previous"
    """
    previous = GENESIS
    for name in FILES[:3]:
        run = subprocess.run(
            ["/bin/sh", "-c", script, "sh", previous, name], cwd=original[1], capture_output=True, text=True, check=True
        )
        previous = run.stdout.strip()
    assert re.search(f'"hash":"{previous}"', (original[1] / HEAD).read_text())


def test_a_folder_without_a_trail_is_one_clear_line(tmp_path):
    """And no green answer."""
    with pytest.raises(AuditError, match="there is none"):
        verify(tmp_path)
