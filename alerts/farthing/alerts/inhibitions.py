"""Which alert silences which: the one that explains keeps talking, the ones that it explains are held back.

Alertmanager's documentation, "Inhibition-related settings": a target is muted while a source fires whose labels in
``equal`` have the same values. A label that both alerts lack counts as equal; one that only one of them has does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from farthing.domain import conventions as names

__all__ = ["INHIBITIONS", "Inhibition"]


@dataclass(frozen=True, slots=True)
class Inhibition:
    """One rule of Alertmanager's ``inhibit_rules``; ``why`` is for whoever reads the list."""

    source: tuple[str, ...]
    """Matchers of the alert that explains."""
    target: tuple[str, ...]
    """Matchers of the alerts that it explains."""
    equal: tuple[str, ...]
    """Labels that both must have alike."""
    why: str

    def document(self) -> dict[str, Any]:
        """The rule as a mapping in the key order of Alertmanager's documentation."""
        return {
            "source_matchers": list(self.source),
            "target_matchers": list(self.target),
            "equal": list(self.equal),
        }


def _alert(*alerts: str) -> str:
    """A matcher of one alert, or of any of several."""
    return f'alertname="{alerts[0]}"' if len(alerts) == 1 else f'alertname=~"{"|".join(alerts)}"'


_CRITICAL: Final = f'{names.LABEL_SEVERITY}="critical"'
_WARNING: Final = f'{names.LABEL_SEVERITY}="warning"'
_INSTANCE: Final = (names.LABEL_INSTANCE,)
_MODEL: Final = (names.LABEL_MODEL,)
_DEVICE: Final = (names.LABEL_UUID,)
_INSTANCE_AND_MODEL: Final = (names.LABEL_INSTANCE, names.LABEL_MODEL)

INHIBITIONS: Final[tuple[Inhibition, ...]] = (
    Inhibition(
        (_CRITICAL,),
        (_WARNING,),
        ("alertname", names.LABEL_MODEL, names.LABEL_INSTANCE),
        "the page says all that the ticket of the same trouble would",
    ),
    Inhibition(
        (_alert("FarthingTargetDown"),),
        (_WARNING,),
        _INSTANCE,
        "a target that does not answer has no other news worth reading; alerts per model stay, since the model's "
        "other instances may still be slow",
    ),
    Inhibition(
        (_alert("LLMEngineStalled"),),
        (_alert("LLMQueueBacklog", "LLMKVCacheFull", "LLMPreemptionsHigh"),),
        _INSTANCE_AND_MODEL,
        "an engine that makes no tokens lets its queue and its cache fill",
    ),
    Inhibition(
        (_alert("LLMEngineStalled"),),
        (_alert("LLMGPUIdleWhileQueued"),),
        _MODEL,
        "a stalled engine is what leaves the GPU idle",
    ),
    Inhibition(
        (_alert("LLMGPULost"),),
        (_alert("LLMEngineStalled", "LLMQueueBacklog", "LLMKVCacheFull", "LLMPreemptionsHigh"),),
        _INSTANCE,
        "an engine that lost a GPU makes no tokens, or fewer; alerts per model stay, since the model's other instances "
        "may be slow too",
    ),
    Inhibition(
        (_alert("LLMGPUXid"),),
        (_alert("LLMGPUECCUncorrected"),),
        _DEVICE,
        "the driver's code says of the same error what is to be done",
    ),
    Inhibition(
        (_alert("LLMGPUThermalThrottling"),),
        (_alert("LLMGPUPowerThrottling"),),
        _DEVICE,
        "a hot GPU draws more for the same clock",
    ),
    Inhibition(
        (_alert("LLMTimeToFirstTokenHigh", "LLMInterTokenLatencyHigh"),),
        (_alert("LLMEndToEndLatencyHigh"),),
        _MODEL,
        "a slow first token or slow tokens make the whole answer slow",
    ),
    Inhibition(
        (_alert("LLMKVCacheFull"),),
        (_alert("LLMQueueBacklog", "LLMPreemptionsHigh"),),
        _INSTANCE_AND_MODEL,
        "requests wait for memory, and running ones lose theirs",
    ),
    Inhibition(
        (_alert("LLMTimeToFirstTokenHigh"),),
        (_alert("LLMRequestsAborted"),),
        _MODEL,
        "people hang up on an empty answer",
    ),
    Inhibition(
        (_alert("LLMRequestsFailing"),),
        (_alert("LLMServerErrorsHigh"),),
        _MODEL,
        "what fails in the engine is a server error at its edge",
    ),
    Inhibition(
        (_alert("FarthingIdleCostHigh"),),
        (_alert("LLMGPUAllocatedIdle"),),
        (),
        "the fleet's idle time is its engines'; the runbook's first query names them",
    ),
    Inhibition(
        (_alert("FarthingMonthlySpendHigh"),),
        (_alert("FarthingMonthlyForecastHigh"),),
        (),
        "what has come about need not be foretold",
    ),
    Inhibition(
        (_alert("FarthingBudgetSpent"),),
        (_alert("FarthingBudgetThresholdPassed"),),
        (names.LABEL_TENANT, names.LABEL_PROJECT, names.LABEL_MODEL),
        "who has spent it all has passed every threshold before",
    ),
    Inhibition(
        (_alert("FarthingScrapeFailing"),),
        (_alert("FarthingWatermarkStale", "FarthingProbeMissing"),),
        _INSTANCE,
        "books stand still where nothing is read",
    ),
    Inhibition(
        (_alert("FarthingBooksStalled"),),
        (_alert("FarthingWatermarkStale", "FarthingProbeSpooling"),),
        (),
        "when nothing can be written every engine's books stand still and every probe keeps what it has",
    ),
    Inhibition(
        (_alert("FarthingProbeDropping"),),
        (_alert("FarthingProbeSpooling"),),
        _INSTANCE,
        "what is dropped did not fit into the spool",
    ),
    Inhibition(
        (_alert("SLOErrorBudgetBurningFast"),),
        (_alert("SLOErrorBudgetBurningSlowly"),),
        (names.LABEL_SLO, names.LABEL_MODEL),
        "the page says all that the ticket of the same promise would",
    ),
)
"""Every inhibition, in the order of Alertmanager's configuration; the first two are for alerts of every kind."""
