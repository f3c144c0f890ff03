"""Whose a sequence is: several of one request, requests at once, work in the background, and the switch."""

import asyncio

import pytest
from tests.probe.answers import DONE, ID, NO_USAGE, TENANT, TEXT, body, only, plain, start
from tests.probe.rig import JSON, off_file, rigged

from farthing_probe import request_meter


def test_two_choices_are_two_sequences_and_one_prompt(rig):
    """n = 2: the engine computes the prompt for each, the client is told it once; so with an image in it."""

    async def app(_scope, receive, send):
        await receive()
        first, second = rig.engine.add("chatcmpl-abc", 10, n=2, images=[4, 3], lora="adapter-7")
        rig.step({first: 1, second: 1})
        rig.step({first: 1, second: 2}, {first: "length", second: "stop"})
        await send(start(headers=JSON))
        await send(body(b'{"usage":{"prompt_tokens":10,"completion_tokens":5}}', more=False))

    rig.ask(app)
    usage = only(rig.usages)
    assert (usage.prompt_tokens, usage.output_tokens, usage.image_tokens) == (10, 5, 7)
    assert [each.output_tokens for each in usage.sequences] == [2, 3]
    assert [each.prompt_tokens for each in usage.sequences] == [10, 10]
    assert usage.model == "adapter-7", "an adapter is what was asked for"


def test_several_prompts_are_one_request(rig):
    """/v1/completions with a list: ids with a suffix each; an abort of some leaves all counted."""

    async def app(_scope, receive, send):
        await receive()
        sequences = [rig.engine.add(f"cmpl-abc-{i}", 5 + i)[0] for i in range(3)]
        rig.step(dict.fromkeys(sequences, 1))
        rig.step({sequences[0]: 1}, {sequences[0]: "stop"})
        await send(start())
        await send(body(TEXT))
        await receive()
        rig.engine.abort(*sequences)

    rig.ask(app, scope=rig.scope("/v1/completions"))
    usage = only(rig.settle())
    assert (usage.outcome, usage.finish_reason) == ("aborted", "stop")
    assert [(each.prompt_tokens, each.output_tokens) for each in usage.sequences] == [(5, 2), (6, 1), (7, 1)]


def test_a_batch_of_any_size_is_a_record_that_intake_takes(rig):
    """Embeddings come by the thousand; the totals stay."""

    async def app(_scope, _receive, send):
        sequences = [rig.engine.add(f"embd-{i}", 1 + i % 7)[0] for i in range(2500)]
        rig.clock.pass_(1)
        rig.step(dict.fromkeys(sequences, 0), dict.fromkeys(sequences, "stop"))
        await send(start(headers=JSON))
        await send(NO_USAGE)

    rig.ask(app, scope=rig.scope("/v1/embeddings"))
    usage = only(rig.settle())
    assert sum(each.prompt_tokens for each in usage.sequences) == sum(1 + i % 7 for i in range(2500))


def test_requests_at_once_keep_their_sequences_apart(rig):
    """By the context that each runs in, with one id for all; tasks that a request starts belong to it."""

    async def app(scope, receive, send):
        await receive()
        prompt = int(dict(scope["headers"])[b"x-project-id"])

        async def submit():
            await asyncio.sleep(0)
            (sequence,) = rig.engine.add("chatcmpl-abc", prompt)
            await asyncio.sleep(0)
            rig.step({sequence: 1}, {sequence: "stop"})

        await asyncio.create_task(submit())
        await send(start(headers=JSON))
        await asyncio.sleep(0)
        await send(NO_USAGE)

    async def talk():
        await asyncio.gather(
            *(rig.asked(app, scope=rig.scope(headers=[ID, (b"x-project-id", b"%d" % i)])) for i in range(1, 9))
        )
        assert request_meter._request.get() is None

    asyncio.run(talk())
    usages = rig.settle()
    assert sorted(int(usage.project) for usage in usages) == list(range(1, 9))
    for usage in usages:
        assert [each.prompt_tokens for each in usage.sequences] == [int(usage.project)]


def test_a_request_leaves_nothing_behind_in_its_context(rig):
    """What is submitted after it, or beside it, is nobody's over HTTP."""

    async def talk():
        await rig.asked(plain(start(headers=JSON), NO_USAGE), scope=rig.scope("/v1/responses"))
        assert rig.usages == [], "its record waits"
        return rig.engine.add("resp-1", 3)

    (sequence,) = asyncio.run(talk())
    rig.step({sequence: 1}, {sequence: "stop"})
    alone, asked = rig.settle()
    assert (alone.seen_by, asked.seen_by) == ("engine", "client")
    assert alone.sequences[0].prompt_tokens == 3


@pytest.mark.parametrize("seconds", [0.0, 30.0], ids=["short", "long"])
def test_background_work_belongs_to_the_request_that_ordered_it(rig, seconds):
    """/v1/responses with background: the answer is out before the engine is asked."""

    async def app(_scope, receive, send):
        await receive()

        async def work():
            await asyncio.sleep(0)
            (sequence,) = rig.engine.add("resp_1", 6)
            rig.step({sequence: 1})
            rig.clock.pass_(seconds)
            rig.probe.tick()
            await asyncio.sleep(0)
            rig.step({sequence: 1}, {sequence: "stop"})

        tasks.append(asyncio.create_task(work()))
        await send(start(headers=JSON))
        await send(body(b'{"id":"resp_1","status":"queued","usage":null}', more=False))

    tasks: list[asyncio.Task[None]] = []

    async def talk():
        await rig.asked(app, scope=rig.scope("/v1/responses", [TENANT]))
        await asyncio.gather(*tasks)

    asyncio.run(talk())
    rig.settle(1)
    usage = only(rig.settle(1))
    assert (usage.tenant, usage.seen_by, usage.outcome) == ("acme", "both", "finished")
    assert usage.sequences[0].output_tokens == 2


def test_an_end_in_the_background_is_waited_for_until_its_statistics_come(rig):
    """The engine's front end lets go of a sequence a moment before it reports it; ticks know nothing of that."""
    tasks: list[asyncio.Task[None]] = []

    async def app(_scope, _receive, send):
        async def work():
            (sequence,) = rig.engine.add("resp_1", 6)
            rig.settle(5)
            rig.settle(5)
            iteration = rig.engine.step({sequence: 1}, {sequence: "stop"})
            assert rig.settle(1) == []
            rig.log.record(rig.engine.state(), iteration)

        tasks.append(asyncio.create_task(work()))
        await send(start(headers=JSON))
        await send(NO_USAGE)

    async def talk():
        await rig.asked(app, scope=rig.scope("/v1/responses"))
        await asyncio.gather(*tasks)

    asyncio.run(talk())
    usage = only(rig.settle(1))
    assert (usage.seen_by, usage.finish_reason) == ("both", "stop")


def test_background_work_that_comes_too_late_is_a_record_of_its_own(rig):
    """Better nobody's than lost."""
    tasks: list[asyncio.Task[None]] = []

    async def app(_scope, _receive, send):
        async def work():
            await asyncio.sleep(0)
            rig.settle()
            (sequence,) = rig.engine.add("resp_1", 6)
            rig.step({sequence: 1}, {sequence: "stop"})

        tasks.append(asyncio.create_task(work()))
        await send(start(headers=JSON))
        await send(NO_USAGE)

    async def talk():
        await rig.asked(app)
        await asyncio.gather(*tasks)

    asyncio.run(talk())
    first, second = rig.settle()
    assert (first.seen_by, first.sequences) == ("client", ())
    assert (second.seen_by, second.sequences[0].prompt_tokens) == ("engine", 6)
    assert rig.probe.unreported == {}


def test_the_switch_ends_a_boot_and_begins_another(tmp_path):
    """On, off, on: a request of each time, one under way at each turn, and no request in two boots."""
    with rigged(off_file(tmp_path)) as rig:
        rig.begin()
        quick = plain(start(headers=JSON), NO_USAGE)

        def turn(*, off):
            (tmp_path / "off").touch() if off else (tmp_path / "off").unlink()
            rig.clock.pass_(1)
            rig.probe.tick()

        async def slow(_scope, _receive, send):
            (sequence,) = rig.engine.add("chatcmpl-slow", 5)
            rig.step({sequence: 1})
            await send(start())
            await send(body(TEXT))
            turn(off=not (tmp_path / "off").exists())
            rig.clock.pass_(1)
            rig.step({sequence: 1}, {sequence: "stop"})
            await send(body(TEXT))
            await send(body(DONE))
            await send(body(more=False))

        rig.ask(quick)
        answer = rig.ask(slow)
        assert [message.get("body") for message in answer.sent[1:]] == [TEXT, TEXT, DONE, b""]
        off = len(rig.records)
        scope = rig.scope()
        rig.ask(quick, scope=scope)
        assert (scope["headers"], len(rig.records)) == ([], off), "off is untouched and silent"
        assert not rig.probe.on
        rig.ask(slow)
        rig.ask(quick)
        rig.settle()

    assert rig.events == ["started", "ready", "stop", "started", "ready"]
    boots = list(dict.fromkeys(record.key.boot for record in rig.records))
    assert len(boots) == 2
    assert boots[1].startswith(boots[0] + "-")
    assert [usage.key.boot for usage in rig.usages] == [boots[0], boots[0], boots[1]]
    slowly = rig.usages[1]
    assert slowly.sequences[0].output_tokens == 1, "what is known when the switch is set"
    assert rig.probe.errors == 0
