"""One engine is followed through the Prometheus replicas that scrape it: on one timeline, nothing twice or lost."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.collectors.fleet.stored import VLLM, Replica, recorded, stored

from farthing.collectors.engines.boots import BootRecords
from farthing.collectors.engines.catalogue import read_signals
from farthing.collectors.fleet.following import NOTE_OFFSET, Following
from farthing.collectors.fleet.targets import by_target
from farthing.costing.scraped import ScrapedCoster
from farthing.domain.clock import SECOND
from farthing.domain.conventions import TOKEN_ENGINE_OUTPUT, TOKEN_PROMPT_COMPUTED
from farthing.domain.errors import EngineUnreachableError

NANO_PER_SECOND = 930_000
"""3.348 dollars an hour."""
POLL = 4


def follow(replicas, *, following=None, polls=None, every_seconds=POLL, late=0):
    """The scrapes that are taken, asking every few seconds through the recording; the reader's clock is monotonic."""
    following = following or Following(stale_ns=16 * SECOND, agree_ns=8 * SECOND)
    begin, end = recorded()[0].true_ns, recorded()[-1].true_ns
    taken = []
    for number in polls or range((end - begin) // (every_seconds * SECOND) + 2):
        true_ns = begin + number * every_seconds * SECOND
        found = by_target(stored(replicas, true_ns - late), replica_label="replica")
        for by_replica in found.values():
            taken += following.take(by_replica, true_ns - begin + 77)
    return taken


def booked(scrapes, resume=None):
    """The windows that scrapes make, and the records they are made of."""
    records = BootRecords("e", VLLM, resume=resume)
    coster = ScrapedCoster("b", lambda a, b: (b - a) * NANO_PER_SECOND // SECOND, "m")
    windows, counted = [], []
    for scrape in scrapes:
        if scrape.exposition is None:
            outcome = records.failed(scrape.at_ns, EngineUnreachableError("down"))
        else:
            reading = read_signals(VLLM, scrape.exposition, "e")
            outcome = records.taken(records.boot_of(reading, scrape.at_ns, "e"), reading, scrape.at_ns)
            counted.append(outcome.counters)
        windows += [window for record in outcome.records for window in coster.feed(record)]
    return windows, counted


def tokens(windows, kind):
    return sum(window.tokens.get(kind, 0) for window in windows)


def seconds(windows):
    return sum(window.end_ns - window.start_ns for window in windows) / SECOND


def gained(first, last, signal):
    """How far a recorded counter went between two scrapes that were taken."""
    return last.values[signal] - first.values[signal]


def is_whole(windows):
    """No window overlaps another, none is missing, and nothing in one is negative."""
    assert all(before.end_ns == after.start_ns for before, after in itertools.pairwise(windows))
    assert all(posting.nano >= 0 for window in windows for posting in window.postings)
    assert all(count >= 0 for window in windows for count in window.tokens.values())


def test_one_prometheus_gives_every_recorded_scrape_at_its_own_time():
    """True sample times, each once, whatever the moments at which it is asked."""
    taken = follow([Replica()])
    assert [scrape.at_ns for scrape in taken] == [scrape.true_ns for scrape in recorded()]
    _, counted = booked(taken)
    assert [record.values for record in counted] == [dict(scrape.values) for scrape in recorded()]


@pytest.mark.parametrize("every_seconds", [2, 7, 29])
def test_how_often_it_is_asked_changes_nothing(every_seconds):
    """As long as a question reaches back to the one before it."""
    assert [one.at_ns for one in follow([Replica()], every_seconds=every_seconds)] == [
        one.true_ns for one in recorded()
    ]


@pytest.mark.parametrize("skew_seconds", [-40, 40, 0])
def test_a_pair_whose_clocks_differ_by_40_seconds_gives_the_same_totals_when_one_dies(skew_seconds):
    """The other goes on where the first ended: tokens to the last one, and not 40 s of cost more or less."""
    first = Replica("a", down=range(50, 200))
    second = Replica("b", skew_ns=skew_seconds * SECOND + 700_000_000, first=1)
    windows, counted = booked(follow([first, second]))
    alone, all_of_it = booked(follow([Replica()]))
    is_whole(windows)
    for kind in (TOKEN_ENGINE_OUTPUT, TOKEN_PROMPT_COMPUTED):
        assert tokens(windows, kind) == tokens(alone, kind) > 0
    assert gained(counted[0], counted[-1], "generation_tokens_total") == tokens(windows, TOKEN_ENGINE_OUTPUT)
    assert seconds(windows) == pytest.approx(seconds(alone), abs=2 * POLL)
    assert counted[-1].values == all_of_it[-1].values


def test_clocks_that_agree_are_taken_as_they_are():
    """A shift is for clocks that are wrong; what can be told is no more precise than the questions."""
    taken = follow([Replica("a", down=range(50, 200)), Replica("b", skew_ns=SECOND // 5, first=1)])
    times = {scrape.true_ns + SECOND // 5 for scrape in recorded()}
    assert {scrape.at_ns for scrape in taken[55:]} <= times
    assert len(taken) > 100


def test_a_replica_that_comes_back_is_not_changed_to():
    """One change is one uncertain interval; a replica that restarts would make two."""
    following = Following(stale_ns=16 * SECOND, agree_ns=8 * SECOND)
    follow([Replica("a", down=range(40, 70)), Replica("b", first=1)], following=following)
    assert following.replica == "b"


def test_a_short_gap_of_the_replica_that_is_followed_is_waited_for():
    """A restarted Prometheus is back within a minute; until then one interval is longer."""
    following = Following(stale_ns=16 * SECOND, agree_ns=8 * SECOND)
    taken = follow([Replica("a", down=range(40, 45)), Replica("b", skew_ns=40 * SECOND)], following=following)
    assert following.replica == "a"
    assert [one.at_ns for one in taken] == [one.true_ns for n, one in enumerate(recorded()) if n not in range(40, 45)]


def test_a_replica_that_cannot_reach_the_engine_is_left_for_one_that_can():
    """Its own scrapes fail, by its up; the engine is not down."""
    following = Following(stale_ns=16 * SECOND, agree_ns=8 * SECOND)
    taken = follow([Replica("a", failed=range(50, 200)), Replica("b")], following=following)
    assert following.replica == "b"
    windows, counted = booked(taken)
    is_whole(windows)
    assert counted[-1].values == recorded()[-1].values


def test_an_engine_that_nobody_can_reach_is_down():
    """Failed scrapes are told at the times at which they failed; the reader sees an outage like the scraper."""
    taken = follow([Replica("a", failed=range(50, 200)), Replica("b", failed=range(50, 200))])
    assert sum(scrape.exposition is None for scrape in taken) == len(recorded()) - 50
    assert taken[-1].at_ns == recorded()[-1].true_ns


def test_an_engine_of_which_nothing_is_stored_any_more_is_silent():
    """Neither down nor billed: nobody knows."""
    following = Following(stale_ns=16 * SECOND, agree_ns=8 * SECOND)
    taken = follow([Replica("a", down=range(50, 200)), Replica("b", down=range(48, 200))], following=following)
    assert taken[-1].at_ns == recorded()[49].true_ns
    end = recorded()[-1].true_ns - recorded()[0].true_ns
    assert following.silent_ns(end) > 100 * SECOND


def test_another_process_goes_on_with_the_replica_and_its_shift():
    """The record says by how much times are shifted: after a restart none is skipped, and none is taken twice."""
    replicas = [Replica("a", down=range(50, 200)), Replica("b", skew_ns=40 * SECOND)]
    one = Following(stale_ns=16 * SECOND, agree_ns=8 * SECOND)
    before = follow(replicas, following=one, polls=range(45))
    _, counted = booked(before)
    assert one.notes[NOTE_OFFSET] < -20
    last = replace(counted[-1], gauges={**counted[-1].gauges, **one.notes})
    two = Following(stale_ns=16 * SECOND, agree_ns=8 * SECOND, resume=last)
    after = follow(replicas, following=two, polls=range(46, 70))
    assert two.replica == "b"
    expected = follow(replicas, polls=range(70))
    assert [scrape.at_ns for scrape in before + after] == [scrape.at_ns for scrape in expected]


def test_a_scrape_of_which_a_part_is_shown_waits_for_the_rest():
    """Remote writing sends a scrape's series in several bodies: half a sum would look like a restart."""
    following = Following(stale_ns=16 * SECOND, agree_ns=8 * SECOND)
    early, late = recorded()[20].true_ns, recorded()[21].true_ns
    whole = stored([Replica()], early)
    following.take({"": whole}, 1)
    shown = stored([Replica()], late)
    part = [series for n, series in enumerate(shown) if n % 3 == 0] + [
        replace(series, points={at: value for at, value in series.points.items() if at != late})
        for n, series in enumerate(shown)
        if n % 3
    ]
    assert following.take({"": part}, 2) == []
    (taken,) = following.take({"": shown}, 3)
    assert taken.at_ns == late


def test_an_engine_that_is_scraped_more_seldom_than_a_question_reaches_back_is_read():
    """Nothing ever follows its newest scrape within one answer; what has not changed since the last one is whole."""
    seldom = Replica(every=40)
    taken = follow([seldom], every_seconds=15)
    assert [scrape.at_ns for scrape in taken] == [recorded()[number].true_ns for number in range(0, 127, 40)]


def test_a_pair_that_scrapes_seldom_is_not_changed_to_and_fro():
    """Its scrapes are further apart than what is stale where scrapes are frequent."""
    following = Following(stale_ns=16 * SECOND, agree_ns=8 * SECOND)
    taken = follow([Replica("a", every=15), Replica("b", first=7, every=15)], following=following)
    assert [scrape.at_ns for scrape in taken] == [recorded()[number].true_ns for number in range(0, 127, 15)]


def test_series_that_an_engine_does_not_show_any_more_hold_nothing_up():
    """A restarted engine has fewer at first; the scrape that follows shows that no more will come."""
    following = Following(stale_ns=16 * SECOND, agree_ns=8 * SECOND)
    following.take({"": stored([Replica()], recorded()[20].true_ns)}, 1)

    def fewer(number):
        return [
            one
            if "success" not in one.labels["__name__"]
            else replace(one, points={at: v for at, v in one.points.items() if at <= recorded()[20].true_ns})
            for one in stored([Replica()], recorded()[number].true_ns)
        ]

    assert following.take({"": fewer(21)}, 2) == []
    taken = following.take({"": fewer(22)}, 3)
    assert [scrape.at_ns for scrape in taken] == [recorded()[21].true_ns, recorded()[22].true_ns]


@settings(max_examples=15, deadline=None)
@given(
    skews=st.tuples(st.integers(-90, 90), st.integers(-90, 90), st.integers(-90, 90)),
    outages=st.lists(st.tuples(st.integers(0, 120), st.integers(1, 60)), min_size=3, max_size=3),
    every_seconds=st.integers(6, 12),
)
def test_whatever_replicas_do_no_time_runs_backwards_and_no_token_counts_twice(skews, outages, every_seconds):
    """Three replicas, each with a clock and an outage of its own."""
    replicas = [
        Replica(name, skew_ns=skew * SECOND, first=n, down=range(at, at + long))
        for n, (name, skew, (at, long)) in enumerate(zip("abc", skews, outages, strict=True))
    ]
    taken = follow(replicas, every_seconds=every_seconds)
    assert all(before.at_ns < after.at_ns for before, after in itertools.pairwise(taken))
    windows, counted = booked(taken)
    is_whole(windows)
    assert len({record.key.boot for record in counted}) == 1
    moved = gained(counted[0], counted[-1], "generation_tokens_total")
    assert tokens(windows, TOKEN_ENGINE_OUTPUT) == moved
