"""All sources together: what appears, what goes, who wins, and what is said about it."""

import asyncio
import logging

import pytest

from farthing.collectors.discovery.target import Target
from farthing.collectors.discovery.watch import Found, Watch, look_once, merged, sources_of
from farthing.domain.errors import DiscoveryError
from farthing.settings import EngineSettings, Settings

STATIC = (EngineSettings.model_validate({"name": "own", "url": "http://gpu-0:8000"}),)


class Scripted:
    """A source that says one thing after another; a sentence is a failure."""

    def __init__(self, *answers, patience=2):
        self.name = "scripted"
        self.patience = patience
        self.answers = list(answers)

    async def read(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, str):
            raise DiscoveryError(answer)
        return [target(*one) for one in answer], []


def target(name, address, **labels):
    return Target(address, {"instance": name, **labels}, f"f:{name}")


def rounds(source, number):
    found, seen = Found(source), []
    for _ in range(number):
        asyncio.run(found.refresh())
        seen.append((sorted(found.engines), list(found.complaints)))
    return seen


def test_a_source_that_fails_keeps_its_engines_for_a_while_and_then_loses_them():
    """Five minutes without a name server are no reason to end every account; an hour may be."""
    a, fail = [("a", "a:1")], "no name server"
    seen = rounds(Scripted(a, fail, fail, fail, fail, a), 6)
    assert [names for names, _ in seen] == [["a"], ["a"], ["a"], [], [], ["a"]]
    assert [len(complaints) for _, complaints in seen] == [0, 1, 1, 2, 2, 0]


def test_a_source_that_is_patient_keeps_its_engines():
    """Files remember each for itself."""
    seen = rounds(Scripted([("a", "a:1")], *["no"] * 20, patience=0), 15)
    assert {tuple(names) for names, _ in seen} == {("a",)}


def test_an_engine_whose_labels_become_wrong_stays_as_it_was():
    """A slip of a finger must not end an account; a new engine with one is left out."""
    found = Found(Scripted([("a", "a:1")], []))
    asyncio.run(found.refresh())
    found.source = Fixed([target("a", "a:2", farthing_gpu_count="two"), target("b", "b:1", farthing_x="")])
    asyncio.run(found.refresh())
    assert {name: one.metrics_url for name, one in found.engines.items()} == {
        "a": "http://a:1/metrics",
        "b": "http://b:1/metrics",
    }
    (complaint,) = found.complaints
    assert complaint.startswith("f:a: engine 'a': label farthing_gpu_count")
    assert complaint.endswith("it stays as it was")


class Fixed(Scripted):
    """A source of these targets."""

    async def read(self):
        return self.answers[0], []


def test_two_targets_of_one_name_are_one_engine_and_that_is_said():
    """The first of them, in the order of the source."""
    found = Found(Scripted([("a", "a:1"), ("a", "a:2")]))
    asyncio.run(found.refresh())
    assert [one.metrics_url for one in found.engines.values()] == ["http://a:1/metrics"]
    assert "engine 'a' is at http://a:2/metrics and at http://a:1/metrics" in found.complaints[0]


@pytest.fixture
def watched():
    """What a watch tells while it reads scripted sources quickly, and what it logs."""

    def watch(*sources, until):
        told: list[tuple[EngineSettings, ...]] = []
        one = Watch([(source, 0.01) for source in sources], STATIC, told.append)

        async def run():
            task = asyncio.create_task(one.run())
            await one.first_round(5)
            async with asyncio.timeout(5):
                while not until(told):
                    await asyncio.sleep(0.01)
            task.cancel()

        asyncio.run(run())
        return one, [[engine.name for engine in engines] for engines in told]

    return watch


def test_engines_appear_change_and_go_and_each_is_told_once(watched, caplog):
    """An answer like the one before is no news."""
    caplog.set_level(logging.INFO)
    a, b = ("a", "a:1"), ("b", "b:1")
    _, told = watched(Scripted([a], [a], [a], [a, b], [a, b], [b]), until=lambda told: len(told) == 3)
    assert told == [["a"], ["a", "b"], ["b"]]
    assert [record.message for record in caplog.records] == [
        "engine a appeared",
        "engine b appeared",
        "engine a is gone",
    ]


def test_farthing_yaml_wins_and_the_first_source_before_the_second_and_it_is_said_once(watched, caplog):
    """Under another name as well, where the address is the same: it would be billed twice."""
    first = Scripted([("own", "x:1"), ("other-name", "gpu-0:8000"), ("a", "a:1")])
    second = Scripted([("a", "a:2"), ("b", "b:1")], [("a", "a:2"), ("b", "b:1"), ("c", "c:1")])
    one, told = watched(first, second, until=lambda told: told and len(told[-1]) == 3)
    assert told[-1] == ["a", "b", "c"]
    assert [engine.metrics_url for engine in one.engines] == [f"http://{n}:1/metrics" for n in "abc"]
    assert [(source.engines, source.problems) for source in one.sources()] == [(3, 0), (3, 0)]
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == len(set(warnings)) == 3
    assert "engine 'own' is in farthing.yaml already" in warnings[0]
    assert "engine 'other-name' is at the address of 'own'" in warnings[1]
    assert "engine 'a' is in source 1 of discovery already" in warnings[2]


def test_a_mistake_of_ours_about_one_source_does_not_end_the_others(watched, caplog):
    """What it knew holds, and the log has the mistake."""

    class Broken(Scripted):
        async def read(self):
            raise RuntimeError("a mistake")

    _, told = watched(Broken([]), Scripted([("a", "a:1")]), until=bool)
    assert told == [["a"]]
    assert "cannot be discovered" in caplog.text


def test_a_command_looks_once_at_what_the_settings_name(tmp_path):
    """Files that are there, and Docker that is not."""
    (tmp_path / "e.yaml").write_text("- targets: [gpu-1:8000]\n  labels: {instance: a}\n")
    socket = f"unix://{tmp_path}/docker.sock"
    data = {"discovery": {"files": [f"{tmp_path}/*.yaml"], "docker": [{"host": socket}]}}
    settings = Settings.model_validate(data)
    assert [(source.name, seconds) for source, seconds in sources_of(settings.discovery)] == [
        (f"{tmp_path}/*.yaml", 5),
        (socket, 15),
    ]
    (engine,), (complaint,) = asyncio.run(look_once(settings.discovery, settings.engines))
    assert engine.name == "a"
    assert "Docker does not answer" in complaint


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ("localhost:8000", "127.0.0.1:8000"),
        ("127.0.0.1:8000", "localhost:8000"),
        ("127.0.0.1:8000", "[::1]:8000"),
        ("gpu-0:8000", "GPU-0.:8000"),
    ],
)
def test_one_engine_at_two_spellings_of_its_address_is_one(own, found):
    """It would be billed twice."""
    static = EngineSettings.model_validate({"name": "own", "url": f"http://{own}"})
    discovered = EngineSettings.model_validate({"name": "other", "url": f"http://{found}"})
    elsewhere = EngineSettings.model_validate({"name": "third", "url": f"http://{found}", "metrics_path": "/b/metrics"})
    engines, (complaint,) = merged([static], [{"other": discovered, "third": elsewhere}])
    assert engines == (elsewhere,)
    assert "engine 'other' is at the address of 'own'" in complaint
