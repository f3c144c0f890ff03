"""`farthing autoscale render` prints documents, with starts as the ledger has booked them."""

import shutil

import pytest
import sqlalchemy as sa
import yaml
from tests.cli.commands import farthing, one_line

from farthing.cli.autoscale import booked_starts
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger

SETTINGS = """\
autoscale:
  models:
    - {model: m, deployment: llama-8b, namespace: llm}
    - {model: other, deployment: other, cold_start_seconds: 300}
"""


@pytest.fixture
def folder(booked, tmp_path):
    """A ledger of two boots of model m at $3.348 per hour, of which one took $0.186 to start."""
    shutil.copy(booked / "ledger.db", tmp_path / "ledger.db")
    (tmp_path / "farthing.yaml").write_text(f"ledger: sqlite:///{tmp_path}/ledger.db\n{SETTINGS}")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/ledger.db")
    with engine.begin() as connection:
        boot = connection.execute(sa.select(t.boots.c.boot).order_by(t.boots.c.boot)).scalars().first()
        row = {"boot": boot, "period": "2026-11", "account": "starting", "nano": 186_000_000}
        connection.execute(sa.insert(t.boot_lines), [row])
    engine.dispose()
    return tmp_path


def test_starts_are_those_of_the_ledger(folder):
    """A boot of which no start was seen tells its price only; a model that never ran tells nothing."""
    ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
    try:
        first, second = booked_starts(ledger, "m")
        assert booked_starts(ledger, "nobody") == ()
    finally:
        ledger.close()
    assert (first.nano, second.nano) == (186_000_000, 0)
    assert first.nano_per_hour == pytest.approx(3.348e9, rel=1e-3)
    assert second.nano_per_hour == pytest.approx(3.348e9, rel=1e-3)


def test_keda_gets_an_object_per_deployment_and_the_reason_of_its_patience(folder):
    """One start of 200 seconds; the other model's as the settings say."""
    ran = farthing("autoscale", "render", "keda", cwd=folder)
    assert (ran.code, ran.err) == (0, "")
    first, second = yaml.safe_load_all(ran.out)
    assert "# A start takes 200 s (the median of 1 booked) and costs 0.1860; idling costs 3.3480 per hour" in ran.out
    assert "# A start takes 300 s (as the settings say), at no known price." in ran.out
    assert [document["metadata"]["name"] for document in (first, second)] == ["llama-8b", "other"]
    behavior = first["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 200


def test_the_other_kinds_are_rendered_too_and_for_one_model_alone(folder):
    """What is printed can be applied as it is."""
    ran = farthing("autoscale", "render", "hpa", "--model", "other", cwd=folder)
    (document,) = yaml.safe_load_all(ran.out)
    assert (document["kind"], document["metadata"]["name"]) == ("HorizontalPodAutoscaler", "other")
    ran = farthing("autoscale", "render", "adapter", cwd=folder)
    (rules,) = yaml.safe_load_all(ran.out)
    assert len(rules["externalRules"]) == 6


def test_nothing_to_scale_is_said_in_one_line(folder):
    """With what there is."""
    said = one_line(farthing("autoscale", "render", "keda", "--model", "mm", cwd=folder), 3)
    assert said == "autoscale.models: no deployment for model 'mm'; add it (known: m, other)"
