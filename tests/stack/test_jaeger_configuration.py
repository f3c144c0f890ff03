"""Jaeger's configuration against what its components declare: no Jaeger runs here, and a key that none knows ends it.

``fixtures/jaeger-components.yaml`` says which components Jaeger's distribution holds and which keys each of them takes,
with the published file that each list was taken from.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from farthing.domain import conventions as names
from farthing.settings import Settings
from farthing.stack.compose import compose_environment
from farthing.stack.compose_config import COMPOSE_FILE, compose_configuration
from farthing.stack.jaeger import CLEANING, DIMENSIONS, JaegerPorts, JaegerSite, render_jaeger
from farthing.stack.jaeger_variants import jaeger_files
from farthing.stack.layout import StateLayout

ROOT = Path(__file__).parents[2]
PUBLISHED: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "fixtures/jaeger-components.yaml").read_text())
PORTS = JaegerPorts(16686, 16685, 4317, 4318, 13133, 8889)
COMPOSE = compose_configuration(Settings())
OPEN = JaegerSite("127.0.0.1", "/data")
LOGIN = JaegerSite("127.0.0.1", "/data", "/run/htpasswd", "http://prometheus:9090", "me", "/run/password")
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "open": yaml.safe_load(render_jaeger(PORTS, OPEN, Settings())),
    "behind a login": yaml.safe_load(render_jaeger(PORTS, LOGIN, Settings())),
    "compose": yaml.safe_load(COMPOSE[Path("jaeger/jaeger.yaml")]),
    **{path.stem: yaml.safe_load(text) for path, text in jaeger_files(Settings()).items()},
}
STORING = {name: config for name, config in CONFIGURATIONS.items() if name != "collector"}
TAKING = {name: config for name, config in CONFIGURATIONS.items() if name != "ingester"}
KINDS = ("extensions", "receivers", "processors", "exporters", "connectors")


def each(configurations: dict[str, dict[str, Any]]) -> pytest.MarkDecorator:
    """One test for each of them."""
    return pytest.mark.parametrize("config", configurations.values(), ids=configurations.keys())


every = each(CONFIGURATIONS)


def unknown(value: Any, declared: Any, where: str) -> list[str]:
    """Keys of ``value`` that are not declared; a name in angle brackets stands for a shared list of keys."""
    if isinstance(declared, str) and declared.startswith("<"):
        declared = PUBLISHED["shared"][declared.strip("<>")]
    if isinstance(value, list) and isinstance(declared, list):
        return [one for place, inner in enumerate(value) for one in unknown(inner, declared[0], f"{where}[{place}]")]
    if not isinstance(value, dict) or not isinstance(declared, dict):
        return []
    found = []
    for key, inner in value.items():
        known = declared.get(key, declared.get("*"))
        if key not in declared and "*" not in declared:
            found.append(f"{where}.{key}")
        found += unknown(inner, known, f"{where}.{key}")
    return found


@every
def test_every_component_is_in_jaegers_distribution_and_every_key_is_one_that_it_takes(config):
    """The collector refuses to start with a component or a key that it does not know."""
    assert set(config) <= {"service", *KINDS}
    for kind in KINDS:
        for name, given in config.get(kind, {}).items():
            # what follows the slash tells two of one type apart
            component = name.partition("/")[0]
            assert component in PUBLISHED[kind], f"{kind}: {name}"
            assert unknown(given, PUBLISHED[kind][component], f"{kind}.{name}") == []
    assert unknown(config["service"], PUBLISHED["service"], "service") == []


@every
def test_everything_that_is_used_is_configured_and_used(config):
    """What a pipeline names is there; an extension that is configured and not listed would not run."""
    service = config["service"]
    assert set(service["extensions"]) == set(config["extensions"])
    pipelines = service["pipelines"].values()
    connectors = set(config.get("connectors", {}))
    used = {
        kind: {name for pipeline in pipelines for name in pipeline.get(kind, ())}
        for kind in ("receivers", "processors", "exporters")
    }
    assert used["processors"] == set(config["processors"])
    # a connector ends one pipeline and begins another
    assert used["receivers"] & used["exporters"] == connectors
    assert used["receivers"] - connectors == set(config["receivers"])
    assert used["exporters"] - connectors == set(config["exporters"])


@each(STORING)
def test_what_is_stored_is_what_is_shown(config):
    """And counts are read from a storage that is there."""
    storage, query = config["extensions"]["jaeger_storage"], config["extensions"]["jaeger_query"]["storage"]
    assert query["traces"] in storage["backends"]
    assert config["exporters"]["jaeger_storage_exporter"]["trace_storage"] == query["traces"]
    assert query.get("metrics") in {None, *storage.get("metric_backends", {})}
    assert ("metrics" in query) is ("metric_backends" in storage)


@each(TAKING)
def test_content_goes_before_anything_sees_it_and_spans_are_counted_before_they_are_sampled(config):
    """The limiter is first, as its README asks; sampling is behind the connector or behind Kafka."""
    pipelines = config["service"]["pipelines"]
    taking = [pipeline for pipeline in pipelines.values() if "otlp" in pipeline["receivers"]]
    assert len(taking) == 1
    (incoming,) = taking
    assert incoming["processors"][: len(CLEANING)] == ["memory_limiter", "attributes/content", "filter/events"]
    assert "tail_sampling" not in incoming["processors"]
    assert "spanmetrics" in incoming["exporters"]
    assert "jaeger_storage_exporter" not in incoming["exporters"]
    assert pipelines["metrics/spans"] == {"receivers": ["spanmetrics"], "exporters": ["prometheus"]}


@each(STORING)
def test_nothing_is_stored_that_was_not_sampled(config):
    """Batches are made behind the sampler, which reassembles spans by trace."""
    pipelines = config["service"]["pipelines"].values()
    (storing,) = [pipeline for pipeline in pipelines if "jaeger_storage_exporter" in pipeline["exporters"]]
    assert storing["processors"][-2:] == ["tail_sampling", "batch"]
    assert storing["receivers"] in (["forward"], ["kafka"])


@each(TAKING)
def test_no_dimension_of_a_span_metric_grows_without_end(config):
    """A tenant, a request or an engine's start would be a series of every bucket each; callers choose models."""
    connector = config["connectors"]["spanmetrics"]
    assert [one["name"] for one in connector["dimensions"]] == list(DIMENSIONS)
    assert not {names.ATTRIBUTE_TENANT, names.ATTRIBUTE_REQUEST_ID, names.RESOURCE_INSTANCE} & set(DIMENSIONS)
    assert connector["aggregation_cardinality_limit"] > 0
    assert connector["resource_metrics_key_attributes"] == ["service.name"]
    assert connector.get("exemplars") is None


def test_jaegers_page_asks_for_the_series_that_the_exporter_writes():
    """Jaeger's default namespace, traces_span_metrics (internal/storage/metricstore/prometheus/options.go), is the
    connector's in Prometheus' spelling; with suffixes, calls_total and duration_milliseconds."""
    config = CONFIGURATIONS["compose"]
    assert config["connectors"]["spanmetrics"]["namespace"].replace(".", "_") == "traces_span_metrics"
    assert config["connectors"]["spanmetrics"]["histogram"]["unit"] == "ms"
    (backend,) = config["extensions"]["jaeger_storage"]["metric_backends"].values()
    asked = backend["prometheus"]
    assert asked["normalize_calls"] is asked["normalize_duration"] is True
    login = {"username": "farthing", "password_file": "/run/farthing/secrets/prometheus-password"}
    assert asked["auth"] == {"basic": login}
    jobs = {
        job["job_name"]: job for job in yaml.safe_load(COMPOSE[Path("prometheus/prometheus.yml")])["scrape_configs"]
    }
    assert jobs[names.JOB_SPANS]["static_configs"] == [{"targets": ["jaeger:8889", "jaeger:8888"]}]
    assert config["exporters"]["prometheus"]["endpoint"] == "0.0.0.0:8889"


def test_jaeger_tells_of_itself_where_it_has_an_address_of_its_own_and_takes_spans_on_every_one():
    """Traces that it lost before a decision are counted nowhere else."""
    config = CONFIGURATIONS["compose"]
    reader = {"pull": {"exporter": {"prometheus": {"host": "0.0.0.0", "port": 8888}}}}  # noqa: S104
    assert config["service"]["telemetry"]["metrics"] == {"level": "normal", "readers": [reader]}
    assert CONFIGURATIONS["open"]["service"]["telemetry"]["metrics"] == {"level": "none"}
    otlp = config["receivers"]["otlp"]["protocols"]
    assert {kind: one["endpoint"] for kind, one in otlp.items()} == {"grpc": "0.0.0.0:4317", "http": "0.0.0.0:4318"}


@every
def test_every_duration_is_one_that_go_reads(config):
    """A number alone would be nanoseconds."""
    text = yaml.safe_dump(config)
    keys = ("wait", "interval", "expiration", "ttl", "spans", "decision_wait_after_root_received")
    given = re.findall(rf"^\s*\w*(?:{'|'.join(keys)}): (\S+)$", text, re.MULTILINE)
    assert given
    assert all(re.fullmatch(r"(\d+(ms|s|m|h))+", value) for value in given), given


def test_traces_are_kept_on_a_volume_for_as_long_as_the_settings_say():
    """Badger's default is a temporary folder, and three days."""
    settings = Settings.model_validate({"traces": {"sampling": {"retention_days": 30}}})
    config = yaml.safe_load(compose_configuration(settings)[Path("jaeger/jaeger.yaml")])
    badger = config["extensions"]["jaeger_storage"]["backends"]["traces"]["badger"]
    assert badger["ephemeral"] is False
    assert badger["ttl"] == {"spans": "720h"}
    clickhouse = yaml.safe_load(jaeger_files(settings)[Path("deploy/jaeger/clickhouse.yaml")])
    assert clickhouse["extensions"]["jaeger_storage"]["backends"]["traces"]["clickhouse"]["ttl"] == "720h"


def test_compose_gives_jaeger_a_volume_that_its_user_may_write_and_memory_beyond_its_limiter():
    """A new volume takes its owner from the folder of the image that first mounts it: Farthing's, not Jaeger's."""
    document = yaml.safe_load((ROOT / COMPOSE_FILE).read_text())
    services = document["services"]
    jaeger = services["jaeger"]
    badger = CONFIGURATIONS["compose"]["extensions"]["jaeger_storage"]["backends"]["traces"]["badger"]
    (mount,) = [volume for volume in jaeger["volumes"] if volume.startswith("jaeger-data:")]
    folder = mount.partition(":")[2]
    assert "jaeger-data" in document["volumes"]
    assert {str(Path(place).parent) for place in badger["directories"].values()} == {folder}
    assert mount in services["secrets"]["volumes"]
    assert services["secrets"]["user"] == jaeger["user"] == "10001:10001"
    assert jaeger["depends_on"]["secrets"] == {"condition": "service_completed_successfully"}
    limiter = CONFIGURATIONS["compose"]["processors"]["memory_limiter"]
    soft = int(jaeger["environment"]["GOMEMLIMIT"].removesuffix("MiB"))
    assert limiter["limit_mib"] < soft < int(jaeger["mem_limit"].removesuffix("m"))
    # traces that wait for their decision, at 10 kB, and remembered decisions, at some 150 bytes
    sampling = CONFIGURATIONS["compose"]["processors"]["tail_sampling"]
    waiting = sampling["num_traces"] * 10_000 + sum(sampling["decision_cache"].values()) * 150
    assert waiting / 2**20 < limiter["limit_mib"] - limiter["spike_limit_mib"]


def test_farthing_delivers_spans_to_the_jaeger_of_its_stack_with_its_login_unless_told_otherwise():
    """From inside, loopback is the host; what is not on loopback stays."""

    def traces(**given: Any) -> dict[str, Any]:
        text = compose_configuration(Settings.model_validate({"traces": given}))[Path("farthing/farthing.yaml")]
        found: dict[str, Any] = yaml.safe_load(text)["traces"]
        return found

    own = {"endpoint": "http://jaeger:4318/", "headers_file": "/run/farthing/secrets/farthing/jaeger-headers"}
    assert traces() == own
    assert traces(endpoint="http://127.0.0.1:4318") == {"endpoint": "http://host.docker.internal:4318/"}
    assert traces(endpoint="http://localhost:4318/?t=a") == {"endpoint": "http://host.docker.internal:4318/?t=a"}
    assert traces(endpoint="https://otlp.example/v1/traces") == {"endpoint": "https://otlp.example/v1/traces"}


def test_the_headers_of_a_collector_elsewhere_are_mounted_and_the_service_finds_them_there(tmp_path):
    """Their text is copied nowhere; the stack's own Jaeger has headers of its own."""
    given = {"endpoint": "https://otlp.example", "headers_file": f"{tmp_path}/mine/headers"}
    settings = Settings.model_validate({"traces": given})
    assert compose_environment(settings, StateLayout.at(tmp_path))["FARTHING_COMPOSE_TRACES"] == f"{tmp_path}/mine"
    inside = yaml.safe_load(compose_configuration(settings)[Path("farthing/farthing.yaml")])["traces"]
    assert inside["headers_file"] == "/run/farthing/traces/headers"
    services = yaml.safe_load((ROOT / COMPOSE_FILE).read_text())["services"]
    mount = "${FARTHING_COMPOSE_TRACES:-./traces}:/run/farthing/traces:ro"
    assert [name for name, one in services.items() if mount in one.get("volumes", ())] == ["farthing"]
    assert (ROOT / COMPOSE_FILE.parent / "traces").is_dir()


def test_replicas_share_a_topic_by_trace_id():
    """Each trace has one partition, and each partition one reader."""
    kafka = CONFIGURATIONS["collector"]["exporters"]["kafka"]
    reader = CONFIGURATIONS["ingester"]["receivers"]["kafka"]
    assert kafka["partition_traces_by_id"] is True
    assert reader["traces"] == {"topics": [kafka["traces"]["topic"]], "encoding": kafka["traces"]["encoding"]}
    assert kafka["brokers"] == reader["brokers"]


def test_behind_a_login_every_endpoint_but_the_check_of_health_and_the_counts_demands_it():
    """A browser asks for the login, because the answer says that there is one."""
    config = CONFIGURATIONS["behind a login"]
    query, otlp = config["extensions"]["jaeger_query"], config["receivers"]["otlp"]["protocols"]
    for endpoint in (query["http"], query["grpc"], otlp["http"], otlp["grpc"]):
        assert endpoint["auth"] == {"authenticator": "basicauth"}
    assert config["service"]["extensions"][0] == "basicauth"
    assert config["extensions"]["basicauth"] == {"htpasswd": {"file": "/run/htpasswd"}}
    assert query["http"]["response_headers"]["WWW-Authenticate"].startswith("Basic ")
    assert "auth" not in config["extensions"]["healthcheckv2"]["http"]
    assert "auth" not in config["exporters"]["prometheus"]
    assert "basicauth" not in str(CONFIGURATIONS["open"])


def test_variants_hold_no_password():
    """Their environment has it; one that is not set has no default."""
    for name in ("clickhouse", "collector", "ingester"):
        for line in yaml.safe_dump(CONFIGURATIONS[name]).splitlines():
            key, _, value = line.strip().partition(": ")
            if "password" in key:
                assert re.fullmatch(r"\$\{env:[A-Z_]+\}", value), line


def test_a_key_that_no_component_takes_is_found():
    """The comparison itself can fail, at any depth."""
    assert unknown({"htpasswd": {"path": "x"}}, PUBLISHED["extensions"]["basicauth"], "b") == ["b.htpasswd.path"]
    wrong = {"http": {"endpoint": "x", "authentication": {}}}
    assert unknown(wrong, PUBLISHED["extensions"]["jaeger_query"], "q") == ["q.http.authentication"]
    latency = {"name": "a", "type": "latency", "latency": {"threshold": 1}}
    policies = [{"name": "b", "type": "and", "and": {"and_sub_policy": [latency, {"nmae": "c"}]}}]
    found = unknown({"policies": policies}, PUBLISHED["processors"]["tail_sampling"], "t")
    assert found == [
        "t.policies[0].and.and_sub_policy[0].latency.threshold",
        "t.policies[0].and.and_sub_policy[1].nmae",
    ]
    badger = {"backends": {"traces": {"badger": {"ttl": {"span": "1h"}}}}}
    assert unknown(badger, PUBLISHED["extensions"]["jaeger_storage"], "s") == ["s.backends.traces.badger.ttl.span"]
