"""Every query of every panel has data from a real Prometheus: six hours of twenty recorded engines, and a live one."""

import re
import time
from functools import cache

import pytest
from tests.alerts.promql import read
from tests.dashboards.asking import choices_of, complaints, wrong_labels
from tests.dashboards.grafana import Board, boards
from tests.dashboards.live_part import LIVE_ENGINE
from tests.dashboards.recorded_engines import CAPTURED
from tests.dashboards.world import placed, world_settings

from farthing.dashboards.render import render_dashboards
from farthing.domain import conventions as names

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

BOOKS_ARE_RIGHT = "the books are right"
NO_ERROR = "the recorded GPUs had no error"
DELIVERED = "the recorded probes delivered all that they had"
TRUTH_IS_ZERO = {
    "farthing-economics/Bill = accounts - moved late + work in progress + residual, since the ledger began/E": (
        BOOKS_ARE_RIGHT
    ),
    "farthing-self/Bill minus its lines/A": BOOKS_ARE_RIGHT,
    "farthing-self/How far can each engine's numbers be trusted?/C": BOOKS_ARE_RIGHT,
    "farthing-self/How far can each engine's numbers be trusted?/F": "Farthing's own scrapes never failed",
    "farthing-self/Every probe/A": DELIVERED,
    "farthing-self/Every probe/D": DELIVERED,
    "farthing-self/Every probe/E": DELIVERED,
    "farthing-self/Every probe/F": DELIVERED,
    "farthing-self/Every probe/G": DELIVERED,
    "farthing-self/GPU records/A": "the agents delivered all that they read",
    "farthing-self/GPU records/B": "the agents delivered all that they read",
    "farthing-fleet/Error rate, by how requests ended/B": "no recorded engine failed a request",
    "farthing-slo/First budget gone in/A": "the load of the recordings has used up more than one budget",
    "farthing-slo/Every promise/G": "and so for each that burns",
    "farthing-gpus/Hardware errors, in range/A": NO_ERROR,
    "farthing-gpus/Hardware errors, in range/B": NO_ERROR,
    "farthing-gpus/Errors of each GPU, in range/A": NO_ERROR,
    "farthing-gpus/Errors of each GPU, in range/B": NO_ERROR,
    "farthing-gpus/Errors of each GPU, in range/C": NO_ERROR,
    "farthing-gpus/Errors of each GPU, in range/D": NO_ERROR,
    "farthing-gpus/GPUs that no engine has, now/B": "nobody uses them",
    "farthing-gpus/Traffic over PCIe and NVLink/B": "the two GPUs with NVLink were captured idle",
}
"""Query -> why 0 is the truth: these must be 0 all the time, and all others must not."""
TRUTH_IS_NOTHING = {
    "farthing-tenants/How requests ended, in range/D": "no request was refused",
    "farthing-gpus/Devices that cannot be believed/A": "the recorded GPUs can",
    "annotation Price changes": "no price changed in these six hours",
}
"""Query, or annotation of every dashboard -> why nothing is the truth."""
MAY_BE_NOTHING = {
    "farthing-tenants/Ten that grew most/A": "the load is the same all the time, and who grew a little changes",
    "farthing-slo/Burn alerts/B": "an alert waits for minutes only, and these may be others",
}
"""Query -> why it depends on the moment whether there is data."""
ABSENT_COLUMNS = {
    "farthing-self/Which alerts about Farthing fire?": {"engine"},
    "farthing-engine/LoRA adapters": {"running_adapters", "waiting_adapters"},
}
"""Panel -> labels that nothing here has: what fires is about targets, and no adapter ran when it was captured."""
LABELS: dict[str, str] = {}
"""Variable -> the label that it chooses, where it is called otherwise."""


@cache
def rendered() -> tuple[Board, ...]:
    return tuple(boards(render_dashboards(world_settings())))


PANELS = [
    pytest.param(board.uid, panel, id=f"{board.uid}: {panel}") for board in rendered() for panel in board.panels()
]
ANNOTATIONS = [
    pytest.param(board.uid, one.panel, id=f"{board.uid}: {one.panel}")
    for board in rendered()
    for one in board.annotations
]


@pytest.fixture(scope="module")
def known(panel_world):
    """The names of all series in the six hours."""
    store = panel_world.store()
    span = {"start": str(store.span.start), "end": str(store.span.end)}
    return frozenset(store.client.get(f"{store.url}/api/v1/label/__name__/values", params=span).json()["data"])


def board_of(panel_world, uid):
    (found,) = (board for board in panel_world.boards if board.uid == uid)
    return found


def lately(store, answer):
    """The same query at every half minute of the last ten."""
    end = store.span.end
    span = {"start": repr(end - 600), "end": repr(end), "step": "30"}
    return store.query(answer.expr, "query_range", span)


@pytest.mark.parametrize(("uid", "panel"), PANELS)
def test_a_panel_has_data_when_all_is_chosen(panel_world, known, uid, panel):
    """As the dashboard opens, over six hours: none empty, none only NaN, none 0 unless that is the truth."""
    board, store = board_of(panel_world, uid), panel_world.store()
    options = store.options(board, {})
    wrong, seen, keys = [], set(), set()
    for asked in board.panels()[panel]:
        answer = store.ask(asked, board, {}, options)
        seen |= {name for labels, _ in answer.series for name in labels}
        if asked.id in TRUTH_IS_NOTHING:
            wrong += ["data, where none is told of"] if answer.series else []
            continue
        keys |= set(asked.keys)
        if asked.id in MAY_BE_NOTHING and not answer.series:
            continue
        zero = asked.id in TRUTH_IS_ZERO
        if asked.instant and not zero and not any(answer.values()):
            # what holds now may be 0 just now
            answer = lately(store, answer)
        said = complaints(asked, answer, known, store.span.end, zero=zero)
        wrong += [f"{asked.letter}: {one}\n    {answer.expr}" for one in said]
    wrong += [f"no column {name}" for name in sorted(keys - seen - ABSENT_COLUMNS.get(f"{uid}/{panel}", set()))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("uid", "panel"), PANELS)
def test_a_panel_has_data_when_one_value_of_each_variable_is_chosen(panel_world, known, uid, panel):
    """For some choice at least, and nothing then is of anybody else."""
    board, store = board_of(panel_world, uid), panel_world.store()
    left = [one for one in board.panels()[panel] if one.id not in TRUTH_IS_NOTHING | MAY_BE_NOTHING]
    wrong = []
    for choices in choices_of(store, board, left):
        options = store.options(board, choices)
        for asked in list(left):
            answer = store.ask(asked, board, choices, options)
            wrong += [f"{asked.letter}: {one}\n    {answer.expr}" for one in wrong_labels(answer, choices, LABELS)]
            if answer.series:
                left.remove(asked)
        if not left or wrong:
            break
    wrong += [f"{asked.letter}: no choice gives data\n    {asked.expr}" for asked in left]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("uid", "annotation"), ANNOTATIONS)
def test_an_annotation_is_shown_where_there_is_something_to_tell(panel_world, known, uid, annotation):
    """Grafana marks every point of an answer: what did not happen is no point."""
    board, store = board_of(panel_world, uid), panel_world.store()
    (asked,) = (one for one in board.annotations if one.panel == annotation)
    answer = store.ask(asked, board, {}, store.options(board, {}))
    assert {use.metric for use in read(answer.expr).uses} <= known | {"ALERTS"}
    if annotation in TRUTH_IS_NOTHING:
        assert answer.series == ()
        return
    assert answer.series
    assert 0 not in answer.values(), "a point where nothing happened"


def test_every_variable_offers_something_to_choose(panel_world):
    """But the cluster, which a Prometheus by itself has no label of."""
    store = panel_world.store()
    for board in panel_world.boards:
        empty = {name for name, values in store.options(board, {}).items() if not values}
        assert empty <= {"cluster"}, board.uid


def test_the_choices_are_the_engines_of_the_world(panel_world):
    """All of them and no other.

    The live one may be missing: its samples come out of order here, behind the recorded ones that reach beyond now,
    and Prometheus 2.42 does not list labels of such. Its data is looked for below.
    """
    (board,) = (one for one in panel_world.boards if one.uid == names.DASHBOARD_FLEET)
    options = panel_world.store().options(board, {})
    assert set(options["instance"]) - {LIVE_ENGINE} == {one.name for one in placed()} | set(CAPTURED)
    assert set(options["model"]) == {one.kind.model for one in placed()} | {"tiny"}
    assert set(options["engine_kind"]) == {"vllm", "sglang"}


def test_the_live_engine_is_on_the_fleet_dashboard(panel_world):
    """Scraped a moment ago, by the rules of a running Prometheus, and costed by a running Farthing."""
    store = panel_world.store(time.time())
    (board,) = (one for one in panel_world.boards if one.uid == names.DASHBOARD_FLEET)
    asked = [one for one in board.asked if "{{instance}}" in one.legend]
    assert asked
    for one in asked:
        answer = store.ask(one, board, {}, store.options(board, {}))
        last = {labels["instance"]: points[-1][0] for labels, points in answer.series}
        assert last[LIVE_ENGINE] > store.span.end - 120, one.id


def test_a_renamed_metric_makes_every_query_that_names_it_fail(panel_world, known):
    """Whatever a query names, on either side of a set operation, is missed when it is called otherwise."""
    store = panel_world.store()
    renamed = 0
    for board in panel_world.boards:
        options = store.options(board, {})
        for asked in board.asked:
            expr = store.expression(asked, board, {}, options)
            for metric in {use.metric for use in read(expr).uses}:
                other = re.sub(rf"\b{metric}\b", f"{metric}_renamed", expr)
                instant = store.query(other, "query", {"time": repr(store.span.end)})
                said = complaints(asked, instant, known, store.span.end)
                assert f"no series {metric}_renamed" in said, asked.id
                renamed += 1
    assert renamed > 30


def test_what_is_told_to_be_zero_or_nothing_is_still_asked():
    """A reason does not outlive its panel."""
    asked = {one.id for board in rendered() for one in board.asked}
    asked |= {one.panel for board in rendered() for one in board.annotations}
    assert set(TRUTH_IS_ZERO | TRUTH_IS_NOTHING | MAY_BE_NOTHING) <= asked
