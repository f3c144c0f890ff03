"""Dashboards go into a Grafana once, are replaced only on demand, and every refusal says what to do."""

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from tenacity import wait_none
from tests.alerts.real_parts import free_port
from tests.cli.commands import farthing, one_line
from tests.cli.stand_in_grafana import TOKEN, StandInGrafana, html, json_answer, stand_in_grafana

from farthing.cli.dashboard_push import push
from farthing.cli.dashboards import chosen
from farthing.cli.grafana_api import TRIES, Grafana
from farthing.cli.grafana_client import read_token
from farthing.domain.errors import ConfigError, GrafanaError
from farthing.settings import Settings

ALL = chosen(Settings(), ())
FIRST = ALL[0]


@pytest.fixture
def server():
    """A Grafana that is empty."""
    with stand_in_grafana() as grafana:
        yield grafana


def client_of(server: StandInGrafana, token: str = TOKEN, seconds: float = 5) -> Grafana:
    """A client that does not wait between tries."""
    return Grafana(httpx.Client(timeout=seconds, trust_env=False), server.url, token, wait=wait_none())


def pushed(
    server: StandInGrafana, *, overwrite: bool = False, dry_run: bool = False, folder: str = "Farthing"
) -> tuple[dict[str, str], list[str]]:
    """What became of every dashboard."""
    return push(client_of(server), ALL, folder=folder, overwrite=overwrite, dry_run=dry_run)


def stored(server: StandInGrafana, uid: str) -> dict[str, Any]:
    """A dashboard's JSON in Grafana, without what Grafana adds."""
    document = dict(server.dashboards[uid]["dashboard"])
    for key in ("id", "version"):
        del document[key]
    return document


def command(server: StandInGrafana, folder: Path, *more: str, what: str = "push") -> Any:
    """The command as a process, with the token from a file."""
    (folder / "token").write_text(f"{server.token}\n")
    return farthing("dashboards", what, "--url", server.url, "--token-file", "token", *more, cwd=folder)


def test_pushing_creates_the_folder_and_every_dashboard_in_it(server):
    """With their UIDs, which alerts link to, and with no id, which is this Grafana's own matter."""
    results, refusals = pushed(server)
    assert results == {one.uid: "created" for one in ALL}
    assert refusals == []
    assert server.folders == {"farthing": "Farthing"}
    for one in ALL:
        assert stored(server, one.uid) == {key: value for key, value in one.document.items() if key != "version"}
        assert server.dashboards[one.uid]["meta"]["folderUid"] == "farthing"
    saved = [body for body in server.bodies if "dashboard" in body]
    assert {body["message"] for body in saved} == {"farthing dashboards push"}
    assert [body["dashboard"]["id"] for body in saved] == [None] * len(ALL)


def test_pushing_again_changes_nothing(server):
    """No new version in Grafana's history for nothing."""
    pushed(server)
    server.asked.clear()
    assert pushed(server)[0] == {one.uid: "unchanged" for one in ALL}
    assert {method for method, _ in server.asked} == {"GET"}


def test_a_dashboard_that_differs_is_replaced_only_on_demand(server):
    """Somebody may have changed it by hand."""
    pushed(server)
    edited = {**FIRST.document, "title": "Mine"}
    server.put(edited, "farthing")
    results, refusals = pushed(server)
    assert results[FIRST.uid] == "refused"
    assert [result for uid, result in results.items() if uid != FIRST.uid] == ["unchanged"] * (len(ALL) - 1)
    assert refusals == [
        f"{FIRST.uid}: is there in version 2 by admin and would be replaced; see farthing dashboards diff, then give "
        "--overwrite"
    ]
    assert server.dashboards[FIRST.uid]["dashboard"]["title"] == "Mine"
    assert pushed(server, overwrite=True)[0][FIRST.uid] == "replaced"
    assert server.dashboards[FIRST.uid]["dashboard"]["title"] == FIRST.title


def test_a_dashboard_in_another_folder_is_moved_on_demand(server):
    """Which is all that differs."""
    pushed(server)
    assert pushed(server, folder="LLM", overwrite=True)[0] == {one.uid: "moved" for one in ALL}
    assert server.folders == {"farthing": "Farthing", "llm": "LLM"}
    assert server.dashboards[FIRST.uid]["meta"]["folderUid"] == "llm"
    assert pushed(server, folder="", overwrite=True)[0][FIRST.uid] == "moved"
    assert server.dashboards[FIRST.uid]["meta"]["folderUid"] == ""


def test_a_dry_run_only_asks(server):
    """And says what would be."""
    results, refusals = pushed(server, dry_run=True)
    assert results == {one.uid: "would be created" for one in ALL}
    assert refusals == []
    assert (server.folders, server.dashboards, server.bodies) == ({}, {}, [])


def test_a_folder_is_found_by_title_or_uid_wherever_it_is(server):
    """Also on a second page of them, and below another folder, where only its uid finds it."""
    server.folders |= {f"f{index}": f"Folder {index}" for index in range(1001)} | {"teamllm": "Team LLM"}
    for folder in ("Team LLM", "teamllm"):
        pushed(server, folder=folder, overwrite=True)
        assert server.dashboards[FIRST.uid]["meta"]["folderUid"] == "teamllm"
    assert len(server.folders) == 1002


@pytest.mark.parametrize("status", [400, 409, 412])
def test_a_folder_that_somebody_else_makes_meanwhile_is_used(server, status):
    """Releases say so with different statuses."""
    told = {"message": "a folder with the same uid already exists", "status": "version-mismatch"}

    def made_meanwhile(body: dict[str, str]) -> Any:
        server.folders[body["uid"]] = body["title"]
        return json_answer(status, told)

    server._create_folder = made_meanwhile
    assert pushed(server)[0][FIRST.uid] == "created"


def test_a_folder_that_is_refused_for_another_reason_is_told(server):
    """With Grafana's words."""
    server.refuse_folder = json_answer(400, {"message": "folder title cannot be empty", "status": "empty-name"})
    with pytest.raises(GrafanaError, match=r"refuses /api/folders \(400: folder title cannot be empty\)"):
        pushed(server)


def test_one_that_is_saved_by_somebody_else_in_that_moment_is_refused_and_the_others_go_on(server):
    """Grafana's own check of versions, 412."""
    other = {**FIRST.document, "title": "Theirs"}

    def meanwhile() -> None:
        server.before_saving = lambda: None
        server.put(other, "farthing")

    server.before_saving = meanwhile
    results, refusals = pushed(server)
    assert results == {one.uid: "refused" if one is FIRST else "created" for one in ALL}
    assert refusals == [f"{FIRST.uid}: The dashboard has been changed by someone else (412)"]
    assert server.dashboards[FIRST.uid]["dashboard"]["title"] == "Theirs"


def test_a_folder_that_goes_in_that_moment_is_told(server):
    """Grafana would not put a dashboard anywhere else."""

    def gone() -> None:
        server.folders.clear()

    server.before_saving = gone
    results, refusals = push(client_of(server), [FIRST], folder="Farthing", overwrite=False, dry_run=False)
    assert (results, refusals) == ({FIRST.uid: "refused"}, [f"{FIRST.uid}: folder not found (400)"])


def test_one_whose_saving_was_answered_too_late_counts_as_saved(server):
    """The second try meets what the first one stored."""

    def stored_but_unanswered() -> None:
        server.before_saving = lambda: None
        server.put(dict(FIRST.document), "farthing")

    server.before_saving = stored_but_unanswered
    results, refusals = push(client_of(server), [FIRST], folder="Farthing", overwrite=False, dry_run=False)
    assert (results, refusals) == ({FIRST.uid: "created"}, [])


def test_a_dashboard_that_comes_from_a_file_is_left_to_that_file(server):
    """Grafana would refuse it; so it is said before."""
    server.put({**FIRST.document, "title": "Old"}, provisioned=True, provisionedExternalId="farthing-fleet.json")
    results, refusals = pushed(server, overwrite=True)
    assert results[FIRST.uid] == "refused"
    assert refusals == [f"{FIRST.uid}: comes from a file that Grafana reads; change that file instead"]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again(server, status):
    """A restart, or a proxy before one."""
    server.out_of_turn = [json_answer(status, {"message": "wait"})] * (TRIES - 1)
    assert pushed(server)[0][FIRST.uid] == "created"


def test_what_does_not_pass_is_told_with_the_number_of_tries(server):
    """And nothing is asked after that."""
    server.out_of_turn = [html(503, "<html>Bad gateway")] * TRIES
    with pytest.raises(
        GrafanaError, match=r"answers 503 \(a page of HTML\); tried 4 times; is Grafana running there\?"
    ):
        pushed(server)
    assert len(server.asked) == TRIES


def test_an_answer_that_does_not_come_is_not_waited_for(server):
    """Longer than the time-out, as often as there are tries."""
    late = threading.Event()

    def never_in_time() -> None:
        late.wait(5)

    server.before_saving = never_in_time
    with pytest.raises(GrafanaError, match="does not answer in time; tried 4 times"):
        push(client_of(server, seconds=0.1), ALL, folder="F", overwrite=False, dry_run=False)
    late.set()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (html(200), "answers /api/health with a page instead of JSON (a login page, or another program's)"),
        (html(404, "<html>nginx"), "answers /api/health with a page instead of JSON"),
        (json_answer(404, {"message": "no"}), "no Grafana answers here"),
        (json_answer(200, {"status": "ok"}), "no Grafana answers here"),
        (json_answer(200, ["ok"]), "no Grafana answers here"),
        (html(302, Location="https://sso.example/login?next=secret"), "sends on to https://sso.example/login; give"),
        (html(500, "<html>oops"), "refuses /api/health (500: a page of HTML)"),
    ],
)
def test_what_is_no_grafana_is_told_from_one(server, answer, said):
    """Login pages answer 200."""
    server.out_of_turn = [answer]
    with pytest.raises(GrafanaError) as told:
        client_of(server).version()
    assert str(told.value).startswith(f"{server.url}: ")
    assert said in str(told.value)
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_login_page_in_the_place_of_an_api_is_told(server):
    """A proxy may let /api/health pass and nothing else."""
    server.out_of_turn = [html(200)]
    with pytest.raises(GrafanaError, match="answers /api/folders with a page instead of JSON"):
        pushed(server)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/api/folders", {"folders": []}),
        ("/api/folders", [{"name": "a"}]),
        ("/api/folders/farthing", [1]),
        (f"/api/dashboards/uid/{FIRST.uid}", {"uid": FIRST.uid}),
        (f"/api/dashboards/uid/{FIRST.uid}", {"dashboard": {"version": "one"}, "meta": {}}),
    ],
)
def test_json_that_is_not_grafanas_is_told(server, path, answer):
    """Another program's API below the same paths."""
    ways = {"/api/folders": 1, "/api/folders/farthing": 2}
    server.out_of_turn = [None] * (ways.get(path, 4) - 1) + [json_answer(200, answer)]
    with pytest.raises(GrafanaError, match="with JSON that is not Grafana's"):
        pushed(server)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "the token is missing (401: Invalid API key); set GRAFANA_TOKEN or --token-file"),
        ("glsa_old", "the token is not valid here (expired, deleted or another Grafana's) (401: Invalid API key)"),
    ],
)
def test_a_token_that_is_missing_or_refused_is_told_and_never_shown(server, token, said):
    """401."""
    with pytest.raises(GrafanaError) as told:
        push(client_of(server, token), ALL, folder="F", overwrite=False, dry_run=False)
    assert said in str(told.value)
    assert "glsa" not in str(told.value)


def test_a_token_that_may_not_write_is_told_what_it_needs(server):
    """403."""
    server.role = "Viewer"
    with pytest.raises(
        GrafanaError, match=r"the token may not do this \(403: .*\); it needs folders:create, as role Ed"
    ):
        pushed(server)
    server.folders["farthing"] = "Farthing"
    with pytest.raises(GrafanaError, match=r"it needs dashboards:create, dashboards:write"):
        pushed(server)


def test_name_and_password_in_the_url_are_used_and_not_shown(server):
    """For a Grafana without service accounts' tokens."""
    url = server.url.replace("://", "://admin:hush@")
    grafana = Grafana(httpx.Client(trust_env=False), url, wait=wait_none())
    assert grafana.version() == "12.1.0"
    assert server.headers[-1]["authorization"].startswith("Basic ")
    with pytest.raises(GrafanaError) as told:
        grafana.folder("x")
    assert "hush" not in str(told.value)


def test_the_command_says_what_became_of_each_dashboard(server, tmp_path):
    """As a table and as JSON; the token comes from a file and appears nowhere."""
    ran = command(server, tmp_path, "-o", "json", "--tag", "team-llm")
    assert ran.code == 0, ran.err
    printed = json.loads(ran.out)
    assert printed["title"] == f"Pushed into folder 'Farthing' of {server.url}, Grafana 12.1.0"
    assert [(row["uid"], row["result"]) for row in printed["rows"]] == [(one.uid, "created") for one in ALL]
    assert "team-llm" in server.dashboards[FIRST.uid]["dashboard"]["tags"]
    ran = command(server, tmp_path, "-o", "csv", "--tag", "team-llm", FIRST.uid)
    assert ran.out.splitlines()[1:] == [f"{FIRST.uid},{FIRST.title},unchanged"]
    assert TOKEN not in ran.out + ran.err


def test_the_command_ends_with_one_line_and_a_status_when_one_is_refused(server, tmp_path):
    """After the table of the others."""
    server.put({**FIRST.document, "title": "Mine"}, "x")
    ran = command(server, tmp_path)
    said = one_line(ran, 15)
    assert said.startswith(f"{server.url}: 1 of {len(ALL)} refused: {FIRST.uid}: is there in version 1 by admin")
    assert ran.out.count("created") == len(ALL) - 1


def test_a_grafana_that_is_away_is_told_in_one_line(tmp_path):
    """With what was tried."""
    url = f"http://127.0.0.1:{free_port()}"
    said = one_line(farthing("dashboards", "push", "--url", url, cwd=tmp_path), 15)
    assert said.startswith(f"{url}: does not answer (")
    assert said.endswith("tried 4 times; is Grafana running there?")


@pytest.mark.parametrize("url", ["grafana.example", "ftp://x", "http://", "http://[::1"])
def test_what_is_no_url_is_told_at_once(url, tmp_path):
    """Nothing is tried."""
    said = one_line(farthing("dashboards", "push", "--url", url, cwd=tmp_path), 15)
    assert said.startswith(f"--url {url}: is not a")


def test_a_release_before_the_types_of_our_panels_is_refused(server, tmp_path):
    """Its panels would be empty, without a word."""
    server.release = "9.5.21"
    said = one_line(command(server, tmp_path), 15)
    assert said.endswith("Grafana 9.5.21 is too old for these dashboards; they need 10 or newer")
    assert server.dashboards == {}


def test_diff_against_a_grafana_shows_what_differs_and_ends_with_a_status(server, tmp_path):
    """Also what bears our tag there and is none of ours any more."""
    assert command(server, tmp_path).code == 0
    ran = command(server, tmp_path, what="diff")
    assert (ran.code, ran.out) == (0, f"{len(ALL)} of {len(ALL)} dashboards are the same in {server.url}\n")
    server.put({**FIRST.document, "refresh": "1h"}, "farthing")
    server.put({"uid": "farthing-old", "title": "Old", "tags": ["farthing"]}, "farthing")
    ran = command(server, tmp_path, what="diff")
    assert ran.code == 1
    assert ran.out.splitlines() == [
        f"{FIRST.uid} ({FIRST.title}): 1 difference",
        "  refresh",
        "    - 1h",
        f"    + {FIRST.document['refresh']}",
        "farthing-old (Old): only there",
        f"{len(ALL) - 1} of {len(ALL)} dashboards are the same in {server.url}",
    ]
    ran = command(server, tmp_path, FIRST.uid, "-o", "json", what="diff")
    assert ran.code == 1
    assert json.loads(ran.out)["rows"] == [
        {
            "dashboard": FIRST.uid,
            "panel": "",
            "path": "refresh",
            "there": "1h",
            "here": FIRST.document["refresh"],
        }
    ]


def test_the_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    """The file first; what cannot be one is refused without being shown."""
    file = tmp_path / "token"
    monkeypatch.setenv("GRAFANA_TOKEN", "of-the-environment")
    assert read_token(None) == "of-the-environment"
    file.write_text("of-the-file\n")
    assert read_token(file) == "of-the-file"
    monkeypatch.delenv("GRAFANA_TOKEN")
    assert read_token(None) == ""
    for content, said in (("", "is empty"), ("two\nlines", "is not a token"), ("geh\u00e4im", "is not a token")):
        file.write_text(content)
        with pytest.raises(ConfigError, match=said) as told:
            read_token(file)
        assert not content or content not in str(told.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none")
