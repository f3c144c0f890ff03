"""What the pages claim is what the code does: schemas field by field, names, and every quoted number."""

import hashlib
import re
import tomllib
from collections import defaultdict
from decimal import Decimal

import msgspec
import pytest
from tests.docs.pages import ROOT, blocks, rows, sections
from tools.quote import PAGES, quoted, quotes

from farthing.collectors import intake, schema
from farthing.collectors.wire import decode_raw
from farthing.domain import conventions as c
from farthing.domain.money import from_nano
from farthing.domain.records import RecordKey
from farthing.exporters.prometheus import DEFAULT_TOP_TENANTS
from farthing.replay.offline import to_json
from farthing.replay.recording import PACKAGED, packaged_names
from farthing.settings import ServeSettings, Settings

DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
CONCEPTS = (DOCS / "concepts.md").read_text()
INTAKE = (DOCS / "intake.md").read_text()
REPLAY = (DOCS / "replay.md").read_text()
OPERATIONS = (DOCS / "operations.md").read_text()
WIRE = {kind.__struct_config__.tag: kind for kind in schema.AnyWire.__args__}


def code(text):
    """Everything between single backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def fields(struct):
    """Names of a wire struct's fields."""
    return {field.encode_name for field in msgspec.structs.fields(struct)}


def first_cells(text):
    """Every name in code in the first column of the tables."""
    return {name for row in rows(text) for name in code(row[0])}


# ---- names -------------------------------------------------------------------------------------------


def test_every_metric_of_the_conventions_is_in_the_metric_reference():
    """The page is what dashboards are written from."""
    page = code((DOCS / "metrics.md").read_text())
    assert {value for name, value in vars(c).items() if name.startswith("METRIC_")} <= page


@pytest.mark.parametrize(
    "names",
    [(*c.ACCOUNTS, c.WIP), c.PHASES, c.METHODS, c.REASONS, c.OUTCOMES, c.CHECKS, (*c.TOKEN_KINDS, c.UNKNOWN, c.OTHER)],
    ids=["accounts", "phases", "methods", "reasons", "outcomes", "checks", "tokens"],
)
def test_every_name_that_numbers_carry_is_explained_in_the_concepts(names):
    """A new account, reason or check needs its sentence."""
    assert set(names) <= code(CONCEPTS)


def test_the_table_of_checks_has_no_check_that_is_not_made():
    """Nor any that was renamed."""
    assert [row[0].strip("`") for row in rows(sections(CONCEPTS)["Checks"])[1:]] == list(c.CHECKS)


def test_every_port_is_in_the_table_of_operations_with_its_setting():
    """And the other way round."""
    table = rows(sections(OPERATIONS)["The native stack"])
    told = {
        setting: int(port)
        for row in table
        if re.match(r"\d", row[0])
        for port, setting in zip(row[0].split(", "), row[2].split(", "), strict=True)
    }
    stack = Settings().stack
    expected = {f"`stack.{name}`": getattr(stack, name) for name in type(stack).model_fields if name.endswith("_port")}
    assert told == {**expected, "`serve.port`": Settings().serve.port}


def test_every_dependency_is_justified_and_nothing_else_is():
    """A package that nobody can explain should not be there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    wanted += [package for extra in project["project"]["optional-dependencies"].values() for package in extra]
    names = {match[0] for package in wanted if (match := re.match(r"[A-Za-z0-9-]+", package))}
    page = sections((DOCS / "dependencies.md").read_text())
    told = {row[0] for row in rows(page["Of the program"])[1:]} | {row[1] for row in rows(page["Extras"])[1:]}
    told |= {name for row in rows(page["Of development"])[1:] for name in row[0].split(", ")}
    assert told == names


def test_the_vendored_library_is_named_with_its_version():
    """As its own file states it."""
    source = (ROOT / "exporters/farthing/exporters/web/static/vendor/uplot/uPlot.iife.min.js").read_text()
    version = re.search(r"uPlot \(v([\d.]+)\)", source)
    assert version is not None
    assert f"| {version[1]} |" in (DOCS / "dependencies.md").read_text()


# ---- the wire ----------------------------------------------------------------------------------------


def test_every_kind_of_record_has_a_section():
    """Named by its kind."""
    assert [f"`{kind}`" for kind in WIRE] == [title for title in sections(INTAKE) if title.startswith("`")]


@pytest.mark.parametrize("kind", WIRE)
def test_every_field_of_a_record_is_in_its_section_and_no_other(kind):
    """The common ones are told once."""
    common = {"boot", "proc", "seq", "v"}
    told = first_cells(sections(INTAKE)[f"`{kind}`"])
    expected = fields(WIRE[kind]) - common
    if kind == "steps":
        expected |= fields(schema.WireMarks) - {"at_ns"}
    if kind == "usage":
        expected |= fields(schema.WireSequence)
    assert told == expected
    assert common | {"kind"} == first_cells(sections(INTAKE)["Every record"])


def test_the_limits_of_intake_are_those_that_it_keeps():
    """A sender plans its batches by them."""
    assert ServeSettings().max_body_bytes == 64 * 1024 * 1024
    assert schema.MAX_LINE_BYTES == 8 * 1024 * 1024
    assert f"64 MiB unless set) as sent and decompressed, {intake.MAX_LINES:,} lines, 8 MiB a line" in INTAKE
    assert f"{intake.BODY_SECONDS:.0f} seconds to arrive" in INTAKE
    assert f"at most {schema.MAX_MARKS:,} entries" in INTAKE
    assert f"at most {schema.MAX_STRING} characters" in INTAKE


def test_the_example_session_is_accepted():
    """Line by line."""
    (session,) = [block.body for block in blocks(INTAKE) if block.language == "sh"]
    records = [decode_raw(line.encode()) for line in session.splitlines() if line.startswith("{")]
    assert [record.kind for record in records] == ["started", "lifecycle"]


# ---- the replay's JSON -------------------------------------------------------------------------------

OPEN = {"coefficients", "intervals"}
"""Objects whose keys are features; the page names the object only."""


def documented_keys(result):
    """The fields of a result as the page names them."""
    yield from result
    yield from (f"fit.{key}" for key in result["fit"])
    yield from (f"tenants.NAME.{key}" for key in next(iter(result["tenants"].values())))


def test_every_field_of_the_json_is_in_the_table_and_no_other(vision_run):
    """Other tools read it."""
    table = sections(REPLAY)["The JSON of an offline replay"]
    assert first_cells(table) == set(documented_keys(to_json(vision_run)))


def test_the_keys_inside_objects_are_told(vision_run):
    """Phases, outcomes and kinds of tokens, in the row of their object."""
    result = to_json(vision_run)
    meanings = {
        name: row[2] for row in rows(sections(REPLAY)["The JSON of an offline replay"]) for name in code(row[0])
    }
    for key in ("charged_nano_usd", "tokens", "requests"):
        assert set(result[key]) <= code(meanings[key])
    tenant = next(iter(result["tenants"].values()))
    assert set(tenant["tokens"]) <= code(meanings["tenants.NAME.tokens"])
    assert set(tenant["by_phase"]) <= code(meanings["tenants.NAME.by_phase"])
    for check in result["checks"]:
        assert set(check) <= code(meanings["checks"])


def test_the_schema_version_is_told():
    """A reader of the page can tell whether it is about their file."""
    assert f"| `schema_version` | integer | {c.REPLAY_SCHEMA_VERSION} |" in REPLAY


def test_the_packaged_recordings_are_listed_with_their_length(text_run, vision_run):
    """By the names that the command takes."""
    listed = {row[0].strip("`"): row[1] for row in rows(REPLAY) if row[0].strip("`") in packaged_names()}
    assert sorted(listed) == packaged_names()
    for run in (text_run, vision_run):
        seconds = (run.recording.end_ns - run.recording.start_ns) / 1e9
        assert listed[run.recording.name].endswith(f", {seconds:.0f} s")


# ---- numbers -----------------------------------------------------------------------------------------


def test_the_identity_in_the_readme_is_the_recorded_one_and_adds_up(text_run):
    """Line by line, to the nano-dollar. After a change to costing run tools/quote.py."""
    result = to_json(text_run)
    told = {row[0].strip("*"): Decimal(row[1].strip("*")) for row in rows(sections(README)["The promise"])[1:]}
    charged, aborted = result["charged_nano_usd"], result["aborted_nano_usd"]
    expected = {
        "bill": result["bill_nano_usd"],
        **charged,
        "aborted": sum(aborted.values()),
        "starting, asleep": result["starting_nano_usd"] + result["asleep_nano_usd"],
        "idle": result["idle_nano_usd"],
        "down": result["down_nano_usd"],
        "unattributed": sum(result["unattributed_nano_usd"].values()),
        "work in progress": sum(result["wip_nano_usd"].values()),
        "residual": result["residual_nano_usd"],
    }
    assert told == {name: from_nano(nano) for name, nano in expected.items()}
    assert told["bill"] == sum(amount for name, amount in told.items() if name != "bill")


def test_the_numbers_beside_the_identity_are_the_recorded_ones(text_run, vision_run):
    """Requests, shares, errors, price and length."""
    result = to_json(text_run)
    busy = sum(sum(result[f"{name}_nano_usd"].values()) for name in ("charged", "aborted", "unattributed"))
    unattributed = sum(result["unattributed_nano_usd"].values())
    errors = [to_json(run)["fit"]["walk_forward_wape"] for run in (text_run, vision_run)]
    seconds = (text_run.recording.end_ns - text_run.recording.start_ns) / 1e9
    price = from_nano(text_run.account.tariff.nano_per_hour(text_run.recording.start_ns)).normalize()
    promise = sections(README)["The promise"]
    assert f"{unattributed / busy:.3%}".replace("%", " %") in promise
    assert f"error of {errors[0] * 100:.1f} % on this run, {errors[1] * 100:.1f} % on the recorded vision" in promise
    assert f"{result['requests']['aborted']} requests whose clients hung up" in promise
    assert f"a recorded run of {seconds:.0f} seconds" in promise
    assert f"at ${price:f} an hour" in promise


def test_the_shares_of_other_methods_are_those_of_the_recorded_counters(text_run):
    """Prompts' share of the cost by request times, by both denominators, and by the engine's steps."""
    exposition = (PACKAGED / text_run.recording.name / "metrics_final.txt").read_text()

    def total(metric):
        found = re.search(rf"^vllm:{metric}_sum\{{.*\}} (\S+)$", exposition, re.MULTILINE)
        assert found is not None
        return float(found[1])

    prefill, decode = total("request_prefill_time_seconds"), total("request_decode_time_seconds")
    means = total("request_time_per_output_token_seconds")
    result = to_json(text_run)
    differs = sections(README)["How it differs"]
    assert f"books {prefill / (prefill + means) * 100:.0f} % of the cost to prompts" in differs
    assert f"in its place, {prefill / (prefill + decode) * 100:.0f} %" in differs
    assert f"The steps say {result['phase_seconds']['prefill'] / result['busy_seconds'] * 100:.0f} %" in differs


def test_the_report_in_the_readme_is_the_recorded_one(text_run):
    """Requests, tokens and totals by tenant."""
    tenants = to_json(text_run)["tenants"]
    for name, tenant in tenants.items():
        (line,) = [line.split() for line in README.splitlines() if line.startswith(f"{name} ")]
        tokens = tenant["tokens"]
        counts = [tenant["requests"], tokens["prompt_computed"], tokens["prompt_cached"], tokens["output"]]
        assert line[1:5] == [f"{count:,}" for count in counts]
        assert line[-2] == f"{from_nano(tenant['cost_nano_usd'] + tenant['aborted_nano_usd']):.4f}"


def test_what_company_does_to_a_price_is_the_recorded_run(text_run):
    """Decode cost per million output tokens of the phase with one request at a time, and with 128."""
    workload = {row.key: row.workload for row in text_run.entry.requests}
    cost: dict[str, int] = defaultdict(int)
    tokens: dict[str, int] = defaultdict(int)
    for row in text_run.entry.requests:
        tokens[row.workload] += row.output_tokens or 0
    for window in text_run.entry.windows:
        for request in window.requests:
            key: RecordKey = request.key
            cost[workload[key]] += request.cost_nano.get(c.DECODE, 0)
    alone, together = (cost[name] / tokens[name] / 1_000 for name in ("c1", "c128"))
    assert f"${alone:.2f} to decode for one request alone and ${together:.2f} among 128" in CONCEPTS


def test_every_quoted_block_is_what_the_tool_writes(text_run, vision_run):
    """So that nobody has to copy numbers; the tests before compute them by themselves."""
    blocks = quotes(text_run, vision_run)
    pages = [page.read_text() for page in PAGES]
    assert [quoted(page, blocks) for page in pages] == pages
    assert sorted(name for page in pages for name in re.findall("<!-- quoted: ([a-z-]+) -->", page)) == sorted(blocks)


def test_a_block_that_nobody_makes_is_an_error():
    """A misspelt marker must not keep old numbers for ever."""
    with pytest.raises(KeyError, match="idendity"):
        quoted("<!-- quoted: idendity -->\n\nold\n\n<!-- end of quote -->", {"identity": "new"})


def test_the_number_of_tenants_with_series_of_their_own_is_told():
    """It bounds the cardinality of a deployment."""
    assert f"the {DEFAULT_TOP_TENANTS} costliest tenants" in CONCEPTS


def test_the_licence_is_apache_2_word_for_word():
    """With its appendix."""
    # of https://www.apache.org/licenses/LICENSE-2.0.txt
    digest = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == digest


def test_the_picture_in_the_readme_is_there_and_small():
    """Everybody who clones pays for it."""
    picture = (ROOT / "docs" / "images" / "page.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 400_000
    assert "](docs/images/page.png)" in README
