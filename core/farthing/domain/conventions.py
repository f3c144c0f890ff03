"""Every name that Farthing defines, once: accounts, phases, metrics, labels, headers, rule groups.

Metric names follow Prometheus practice (base units, ``_total`` for counters); recording rules follow
``level:metric:operation``.
"""

from __future__ import annotations

from typing import Final

# ---- accounts of the identity (DESIGN: the promise) ------------------------------------------------
CHARGED: Final = "charged"
ABORTED: Final = "aborted"
STARTING: Final = "starting"
IDLE: Final = "idle"
ASLEEP: Final = "asleep"
DRAINING: Final = "draining"
DOWN: Final = "down"
UNATTRIBUTED: Final = "unattributed"
WIP: Final = "wip"
ACCOUNTS: Final = (CHARGED, ABORTED, STARTING, IDLE, ASLEEP, DRAINING, DOWN, UNATTRIBUTED)
"""What becomes of an engine's bill."""

# ---- accounts of what is bought beyond the engines that run (books) ---------------------------------
UNALLOCATED: Final = "unallocated"
"""GPUs that are rented or owned and that no engine has."""
UNUSED_COMMITMENT: Final = "unused_commitment"
"""GPUs that were committed to and that no engine has."""
SHARED: Final = "shared"
"""Hosts, storage, network and whatever else is shared; the reason names the pool."""
POOL_HOST: Final = "host"
"""Reason of what a capacity's host costs: processors, memory, disks."""
POOL_UNASSIGNED: Final = "unassigned"
"""Reason of GPUs of a capacity that no engine has."""
POOL_UNSOLD_SLICE: Final = "unsold_slice"
"""Reason of what is left of GPUs of which engines have a fraction."""
CAPACITY_ACCOUNTS: Final = (UNALLOCATED, UNUSED_COMMITMENT, SHARED)
BOOK_ACCOUNTS: Final = (*ACCOUNTS, *CAPACITY_ACCOUNTS)
"""Every account that a journal line may debit."""

GPU_ALLOCATION: Final = "gpu_allocation"
"""Where an engine's money comes from: double entry's other side."""
CAPACITY: Final = "capacity"
"""Where the money of what is bought beyond running engines comes from."""
CAPACITY_BOOT: Final = "capacity:"
"""Prefix of the ``boot`` of journal lines that no boot made: of a capacity or a shared cost."""

# ---- an entry's life ---------------------------------------------------------------------------------
PROVISIONAL: Final = "provisional"
SETTLED: Final = "settled"
CLOSED: Final = "closed"
ADJUSTED: Final = "adjusted"
ENTRY_STATES: Final = (PROVISIONAL, SETTLED, CLOSED, ADJUSTED)

PREFILL: Final = "prefill"
DECODE: Final = "decode"
VISION: Final = "vision"
PHASES: Final = (PREFILL, DECODE, VISION)

REASON_LOST: Final = "lost_record"
REASON_UNMETERED: Final = "unmetered"
REASON_FAILED: Final = "engine_failure"
REASON_PREEMPTION: Final = "preemption"
"""Not a reason of unattributed work: it marks charges of recomputed work, shared by who held the KV cache."""
REASONS: Final = (REASON_LOST, REASON_UNMETERED, REASON_FAILED)
REASON_NO_BOOT: Final = "no_boot"
"""Of ``down``: GPUs that are paid for, of an engine of which no boot is alive."""

# ---- how a number was obtained ------------------------------------------------------------------
METERED: Final = "metered"
MODELLED: Final = "modelled"
ESTIMATED: Final = "estimated"
ASSUMED: Final = "assumed"
METHODS: Final = (METERED, MODELLED, ESTIMATED, ASSUMED)

# ---- requests ------------------------------------------------------------------------------------
FINISHED: Final = "finished"
FAILED: Final = "failed"
REJECTED: Final = "rejected"
OUTCOMES: Final = (FINISHED, ABORTED, FAILED, REJECTED)
UNKNOWN: Final = "unknown"
"""The tenant, tier or model of work that named none; it carries dollars like any other."""
UNPRICED: Final = "unpriced"
"""What stands for the cost of work that no price applies to; never 0."""
OTHER: Final = "other"
"""The tenant under which metrics keep the dollars of tenants beyond the largest K; and the tier of those that have no
series of their own."""
ABORTED_EARLY: Final = "aborted_before_first_token"
FAILED_EARLY: Final = "failed_before_first_token"
INVALID: Final = "invalid"
"""Refused for the request's own fault, which is no news about the service."""
REQUEST_OUTCOMES: Final = (FINISHED, ABORTED, ABORTED_EARLY, FAILED, FAILED_EARLY, REJECTED, INVALID)
"""What service levels count: of OUTCOMES, aborted and failed are split by whether there was a first token, and rejected
is what there was no room for."""
SLO_TTFT: Final = "ttft"
SLO_E2E: Final = "e2e"
SLO_ITL: Final = "itl"
SLO_QUEUE: Final = "queue"
SLO_AVAILABILITY: Final = "availability"
_NEVER_BEGUN: Final = (ABORTED_EARLY, FAILED_EARLY, REJECTED)
UNSERVED: Final = {
    SLO_TTFT: _NEVER_BEGUN,
    SLO_QUEUE: _NEVER_BEGUN,
    SLO_E2E: (*_NEVER_BEGUN, FAILED),
    SLO_ITL: (*_NEVER_BEGUN, FAILED),
    SLO_AVAILABILITY: (*_NEVER_BEGUN, FAILED),
}
"""What a service level promises -> outcomes that are bad for it although nothing was measured of them. Who hangs up
while reading says nothing about what was promised."""
GOOD: Final = "good"
BAD: Final = "bad"
RESULTS: Final = (GOOD, BAD)
"""What a request is to a service level."""

TOKEN_PROMPT_COMPUTED: Final = "prompt_computed"  # noqa: S105 - a kind of token, not a secret
TOKEN_PROMPT_CACHED: Final = "prompt_cached"  # noqa: S105
TOKEN_IMAGE: Final = "image"  # noqa: S105
TOKEN_OUTPUT: Final = "output"  # noqa: S105
TOKEN_ENGINE_OUTPUT: Final = "engine_output"  # noqa: S105
TOKEN_KINDS: Final = (TOKEN_PROMPT_COMPUTED, TOKEN_PROMPT_CACHED, TOKEN_IMAGE, TOKEN_OUTPUT)

# ---- attribution headers (defaults; settings may change them) ------------------------------------
HEADER_TENANT: Final = "x-tenant-id"
HEADER_PROJECT: Final = "x-project-id"
HEADER_WORKLOAD: Final = "x-workload-id"
HEADER_USER: Final = "x-user-id"
HEADER_TIER: Final = "x-tier"

# ---- the policy under which settlement runs ------------------------------------------------------
POLICY_VERSION: Final = "2026-11-first-light"
REPLAY_SCHEMA_VERSION: Final = 1
WIRE_VERSION: Final = 1

# ---- Farthing's own metrics: by engine -----------------------------------------------------------
METRIC_BILL: Final = "farthing_bill_usd_total"
METRIC_COST: Final = "farthing_cost_usd_total"
METRIC_UNATTRIBUTED: Final = "farthing_unattributed_usd_total"
METRIC_LATE: Final = "farthing_late_usd_total"
METRIC_WIP: Final = "farthing_work_in_progress_usd"
METRIC_RESIDUAL: Final = "farthing_residual_usd"
METRIC_BUSY: Final = "farthing_busy_seconds_total"
METRIC_TOKENS: Final = "farthing_tokens_total"
METRIC_ENERGY: Final = "farthing_energy_joules_total"
METRIC_PRICE: Final = "farthing_gpu_price_usd_per_hour"
METRIC_PEAK_FLOPS: Final = "farthing_gpu_peak_flop_per_second"
METRIC_PEAK_BANDWIDTH: Final = "farthing_gpu_peak_memory_bytes_per_second"
METRIC_SPEND_RATE: Final = "farthing_spend_rate_usd_per_hour"
METRIC_UNIT_COST: Final = "farthing_unit_cost_usd_per_million_tokens"
METRIC_RECENT_UNIT_COST: Final = "farthing_unit_cost_recent_usd_per_million_tokens"
METRIC_UNIT_COST_BOUND: Final = "farthing_unit_cost_recent_bound_usd_per_million_tokens"
METRIC_SATURATED_UNIT_COST: Final = "farthing_unit_cost_at_saturation_usd_per_million_tokens"
METRIC_FIT_ERROR: Final = "farthing_fit_error_ratio"
# ---- by tenant -----------------------------------------------------------------------------------
METRIC_TENANT_COST: Final = "farthing_tenant_cost_usd_total"
METRIC_TENANT_TOKENS: Final = "farthing_tenant_tokens_total"
METRIC_TENANT_REQUESTS: Final = "farthing_tenant_requests_total"
# ---- spend, budgets and unit economics -------------------------------------------------------------
METRIC_SPEND_TODAY: Final = "farthing_spend_today_usd"
METRIC_SPEND_MONTH: Final = "farthing_spend_month_usd"
METRIC_BILL_TODAY: Final = "farthing_bill_today_usd"
METRIC_BILL_MONTH: Final = "farthing_bill_month_usd"
METRIC_SPEND_FORECAST: Final = "farthing_spend_forecast_usd"
METRIC_ANOMALY: Final = "farthing_cost_anomaly_usd"
METRIC_BUDGET: Final = "farthing_budget_usd"
METRIC_BUDGET_SPENT: Final = "farthing_budget_spent_usd"
METRIC_BUDGET_RATIO: Final = "farthing_budget_ratio"
METRIC_BUDGET_EVENT: Final = "farthing_budget_event_timestamp_seconds"
METRIC_CAPACITY: Final = "farthing_capacity_usd"
METRIC_UNPRICED: Final = "farthing_engine_unpriced"
METRIC_KPI_UNIT_COST: Final = "farthing_kpi_unit_cost_usd"
METRIC_KPI_SHARE: Final = "farthing_kpi_bill_ratio"
# ---- latency histograms by model and tier --------------------------------------------------------
METRIC_TTFT: Final = "farthing_time_to_first_token_seconds"
METRIC_TPOT: Final = "farthing_time_per_output_token_seconds"
METRIC_E2E: Final = "farthing_request_duration_seconds"
METRIC_QUEUE: Final = "farthing_request_queue_seconds"
METRIC_REQUESTS: Final = "farthing_requests_total"
METRIC_SLO_REQUESTS: Final = "farthing_slo_requests_total"
# ---- Farthing itself -----------------------------------------------------------------------------
METRIC_INTAKE: Final = "farthing_intake_records_total"
METRIC_AUTH_FAILURES: Final = "farthing_auth_failures_total"
METRIC_SPANS: Final = "farthing_spans_total"
METRIC_SPANS_WAITING: Final = "farthing_spans_waiting"
METRIC_AUDIT_UP: Final = "farthing_audit_up"
METRIC_AUDIT_RECORDS: Final = "farthing_audit_records_total"
METRIC_AUDIT_FAILURES: Final = "farthing_audit_failures_total"
METRIC_DISCOVERED: Final = "farthing_discovered_engines"
METRIC_DISCOVERY_PROBLEMS: Final = "farthing_discovery_problems"
METRIC_WATERMARK_LAG: Final = "farthing_watermark_lag_seconds"
METRIC_SCRAPE_UP: Final = "farthing_engine_scrape_up"
METRIC_SCRAPE_FAILURES: Final = "farthing_engine_scrape_failures_total"
METRIC_CHECK: Final = "farthing_reconciliation_ok"
METRIC_BUILD: Final = "farthing_build_info"
# ---- GPUs, by device: what Farthing reads itself (NVML, processors) or from exporters ---------------
METRIC_GPU_INFO: Final = "farthing_gpu_info"
METRIC_GPU_ENGINE: Final = "farthing_gpu_engine_info"
"""Which engine runs on a device: 1 by uuid and engine."""
METRIC_GPU_UTILIZATION: Final = "farthing_gpu_utilization_ratio"
METRIC_GPU_MEMORY_UTILIZATION: Final = "farthing_gpu_memory_utilization_ratio"
METRIC_GPU_MEMORY_USED: Final = "farthing_gpu_memory_used_bytes"
METRIC_GPU_MEMORY_TOTAL: Final = "farthing_gpu_memory_total_bytes"
METRIC_GPU_POWER: Final = "farthing_gpu_power_watts"
METRIC_GPU_POWER_LIMIT: Final = "farthing_gpu_power_limit_watts"
METRIC_GPU_ENERGY: Final = "farthing_gpu_energy_joules_total"
METRIC_GPU_TEMPERATURE: Final = "farthing_gpu_temperature_celsius"
METRIC_GPU_MEMORY_TEMPERATURE: Final = "farthing_gpu_memory_temperature_celsius"
METRIC_GPU_SM_CLOCK: Final = "farthing_gpu_sm_clock_hertz"
METRIC_GPU_MAX_SM_CLOCK: Final = "farthing_gpu_max_sm_clock_hertz"
METRIC_GPU_MEMORY_CLOCK: Final = "farthing_gpu_memory_clock_hertz"
METRIC_GPU_THROTTLED: Final = "farthing_gpu_throttled"
METRIC_GPU_ECC: Final = "farthing_gpu_ecc_errors_total"
METRIC_GPU_XID: Final = "farthing_gpu_xid_errors_total"
METRIC_GPU_LAST_XID: Final = "farthing_gpu_last_xid"
METRIC_GPU_PCIE: Final = "farthing_gpu_pcie_bytes_per_second"
METRIC_GPU_NVLINK: Final = "farthing_gpu_nvlink_bytes_total"
METRIC_GPU_PROCESS_MEMORY: Final = "farthing_gpu_process_memory_bytes"
METRIC_GPU_FAULT: Final = "farthing_gpu_telemetry_fault"
"""1 while a device's telemetry cannot be believed, by fault."""
METRIC_GPU_SOURCE_UP: Final = "farthing_gpu_source_up"
METRIC_GPU_UNALLOCATED: Final = "farthing_gpu_unallocated_usd_per_hour"
METRIC_GPU_WAITING: Final = "farthing_gpu_records_waiting"
METRIC_GPU_DROPPED: Final = "farthing_gpu_records_dropped_total"
# ---- energy joined to tokens ---------------------------------------------------------------------
METRIC_PHASE_ENERGY: Final = "farthing_phase_energy_joules_total"
METRIC_TENANT_ENERGY: Final = "farthing_tenant_energy_joules_total"
METRIC_ENERGY_PER_TOKEN: Final = "farthing_energy_joules_per_token"  # noqa: S105 - a ratio
METRIC_CARBON: Final = "farthing_carbon_grams_total"
METRIC_ENERGY_COST: Final = "farthing_energy_cost_usd_total"
# ---- the probe's own, on the engine's exposition ----------------------------------------------------
PROBE_ON: Final = "farthing_probe_on"
PROBE_SENT: Final = "farthing_probe_sent_total"
PROBE_WAITING: Final = "farthing_probe_waiting_records"
PROBE_SPOOLED: Final = "farthing_probe_spooled_bytes"
PROBE_DROPPED: Final = "farthing_probe_dropped_total"
PROBE_REFUSED: Final = "farthing_probe_refused_total"
PROBE_FAILURES: Final = "farthing_probe_failures_total"
PROBE_ERRORS: Final = "farthing_probe_errors_total"
PROBE_SPANS_SENT: Final = "farthing_probe_spans_sent_total"
PROBE_SPANS_DROPPED: Final = "farthing_probe_spans_dropped_total"
PROBE_SPAN_FAILURES: Final = "farthing_probe_span_failures_total"

LABEL_ENGINE: Final = "engine"
LABEL_MODEL: Final = "model"
LABEL_ENGINE_KIND: Final = "engine_kind"
"""Which program serves: vllm, sglang, tgi ..."""
LABEL_ACCOUNT: Final = "account"
LABEL_PHASE: Final = "phase"
LABEL_METHOD: Final = "method"
LABEL_REASON: Final = "reason"
LABEL_TENANT: Final = "tenant"
LABEL_TIER: Final = "tier"
LABEL_KIND: Final = "kind"
LABEL_OUTCOME: Final = "outcome"
LABEL_RESULT: Final = "result"
LABEL_SLO: Final = "slo"
LABEL_PROMISE: Final = "promise"
LABEL_WINDOW: Final = "window"
LABEL_CHECK: Final = "check"
LABEL_GPU: Final = "gpu"
LABEL_BOUND: Final = "bound"
LABEL_PROJECT: Final = "project"
LABEL_THRESHOLD: Final = "threshold"
LABEL_UNIT: Final = "unit"
LABEL_SHARE: Final = "share"

LABEL_UUID: Final = "uuid"
LABEL_HOST: Final = "hostname"
LABEL_DEVICE: Final = "device"
"""The driver's number of a GPU on its host."""
LABEL_GPU_MODEL: Final = "gpu_model"
LABEL_SOURCE: Final = "source"
LABEL_FAULT: Final = "fault"
LABEL_DIRECTION: Final = "direction"
LABEL_PARENT: Final = "parent"
"""UUID of the GPU that a MIG instance is a slice of."""
LABEL_PROFILE: Final = "profile"
LABEL_POD: Final = "pod"
"""``namespace/pod``, as Kubernetes names it."""
LABEL_PID: Final = "pid"

FAULT_STUCK_UTILIZATION: Final = "utilization_stuck_at_zero"
FAULT_SENTINEL: Final = "sentinel"
FAULT_ENERGY_WENT_BACK: Final = "energy_counter_went_back"
FAULTS: Final = (FAULT_STUCK_UTILIZATION, FAULT_SENTINEL, FAULT_ENERGY_WENT_BACK)

# ---- signals of an engine's own exposition (vocabulary/engines) that costing reads ----------
SIGNAL_RUNNING: Final = "requests_running"
SIGNAL_WAITING: Final = "requests_waiting"
SIGNAL_KV: Final = "kv_cache_utilization"
SIGNAL_AWAKE: Final = "engine_awake"
SIGNAL_STARTUP: Final = "startup_seconds"
SIGNAL_PROMPT: Final = "prompt_tokens_total"
SIGNAL_COMPUTED: Final = "computed_prompt_tokens_total"
SIGNAL_CACHED: Final = "cached_prompt_tokens_total"
SIGNAL_GENERATION: Final = "generation_tokens_total"
SIGNAL_FIRST_TOKENS: Final = "first_tokens_total"
SIGNAL_PREFILL_TIME: Final = "request_prefill_time_sum"
SIGNAL_DECODE_TIME: Final = "request_decode_time_sum"

# ---- scrape jobs, rule groups, recording rules (level:metric:operation) ---------------------------
JOB_ENGINES: Final = "llm-engines"
JOB_FARTHING: Final = "farthing"
JOB_ROUTERS: Final = "llm-routers"
"""Routers before the engines, which see the same requests once more."""
JOB_GPUS: Final = "gpu-exporters"
"""Exporters of GPU metrics, whoever wrote them."""
JOB_SPANS: Final = "spans"
"""What Jaeger counts of spans, before it samples them."""
GROUP_VOCABULARY: Final = "llm-vocabulary"
GROUP_DETAILS: Final = "llm-details"
GROUP_LATENCY_ALERTS: Final = "farthing-latency"
GROUP_ERROR_ALERTS: Final = "farthing-errors"
GROUP_STALLED_ALERTS: Final = "farthing-stalled"
GROUP_SATURATION_ALERTS: Final = "farthing-saturation"
GROUP_SPEND_ALERTS: Final = "farthing-spend"
GROUP_COST_ALERTS: Final = "farthing-cost"
GROUP_CACHE_ALERTS: Final = "farthing-cache"
GROUP_GPU_ALERTS: Final = "farthing-gpu"
GROUP_GPU_HARDWARE_ALERTS: Final = "farthing-gpu-hardware"
GROUP_PROBE_ALERTS: Final = "farthing-probe"
GROUP_COLD_START_ALERTS: Final = "farthing-coldstart"

# scalars by (instance, model)
REC_RUNNING: Final = "llm:requests_running:sum"
REC_WAITING: Final = "llm:requests_waiting:sum"
REC_KV: Final = "llm:kv_cache_utilization:max"
REC_KV_CAPACITY: Final = "llm:kv_capacity_tokens:sum"
REC_AWAKE: Final = "llm:engine_awake:max"
REC_WAITING_REASON: Final = "llm:requests_waiting_by_reason:sum"
"""By reason too: capacity (no room in the batch or the cache), deferred (held back by something passing)."""
REC_STATE: Final = "llm:engine_state:max"
"""By instance: STATE_DOWN, STATE_ASLEEP, STATE_UP or STATE_RESTARTED."""
STATE_DOWN: Final = 0
STATE_ASLEEP: Final = 1
STATE_UP: Final = 2
STATE_RESTARTED: Final = 3
"""Up, and its counters began anew within the last minute."""
REC_KV_INFO: Final = "llm:kv_cache:info"
"""1 by instance: tokens that a rank's KV cache holds, its block size and type, as labels."""
REC_ADAPTERS: Final = "llm:lora_adapters:last"
"""By instance, the LoRA adapters that run and wait, as labels; the value is when that was so, in Unix time."""
REC_ENGINE: Final = "llm:engine:info"
"""1 per (instance, model), with the kind of engine, and the instance once more as ``engine``."""
REC_RESETS: Final = "llm:generation_tokens:resets5m"
"""Times that an instance began to count anew within a minute: restarts."""
# rates by (instance, model)
REC_GENERATION_RATE: Final = "llm:generation_tokens:rate1m"
REC_PROMPT_RATE: Final = "llm:prompt_tokens:rate1m"
REC_CACHED_RATE: Final = "llm:cached_prompt_tokens:rate1m"
REC_REQUEST_RATE: Final = "llm:requests_finished:rate1m"
REC_FAILED_RATE: Final = "llm:requests_failed:rate1m"
REC_REJECTED_RATE: Final = "llm:requests_rejected:rate1m"
REC_PREEMPTION_RATE: Final = "llm:preemptions:rate1m"
REC_PREFIX_HIT_RATE: Final = "llm:prefix_cache_hits:rate1m"
REC_PREFIX_QUERY_RATE: Final = "llm:prefix_cache_queries:rate1m"
REC_EXTERNAL_HIT_RATE: Final = "llm:external_kv_hits:rate1m"
REC_MM_HIT_RATE: Final = "llm:mm_cache_hits:rate1m"
REC_MM_QUERY_RATE: Final = "llm:mm_cache_queries:rate1m"
REC_DRAFT_RATE: Final = "llm:spec_draft_tokens:rate1m"
REC_ACCEPTED_RATE: Final = "llm:spec_accepted_tokens:rate1m"
REC_DRAFTS_RATE: Final = "llm:spec_drafts:rate1m"
REC_ENDED_RATE: Final = "llm:requests_ended:rate1m"
"""By reason too: stop, length, error, abort ..."""
REC_STEP_RATE: Final = "llm:steps:rate1m"
REC_STEP_TOKEN_RATE: Final = "llm:step_tokens:rate1m"  # noqa: S105 - a rate of tokens
REC_EXTERNAL_QUERY_RATE: Final = "llm:external_kv_queries:rate1m"
REC_KV_LOADED_RATE: Final = "llm:kv_offload_loaded_bytes:rate1m"
REC_KV_STORED_RATE: Final = "llm:kv_offload_stored_bytes:rate1m"
REC_KV_TRANSFERRED_RATE: Final = "llm:kv_transferred_bytes:rate1m"
REC_KV_TRANSFER_FAILED_RATE: Final = "llm:kv_transfers_failed:rate1m"
# seconds of finished requests per second: by requests_timed (first tokens), means
REC_TIMED_RATE: Final = "llm:requests_timed:rate1m"
REC_QUEUE_TIME: Final = "llm:queue_time:rate1m"
REC_PREFILL_TIME: Final = "llm:request_prefill_time:rate1m"
REC_DECODE_TIME: Final = "llm:request_decode_time:rate1m"
REC_E2E_TIME: Final = "llm:e2e_latency:rate1m"
REC_FIRST_TOKEN_RATE: Final = "llm:first_tokens:rate1m"  # noqa: S105 - a rate of tokens
REC_TTFT_TIME: Final = "llm:time_to_first_token:rate1m"
# rates of histogram buckets by (model, le), and quantiles by model
REC_TTFT_BUCKET: Final = "llm:time_to_first_token_seconds_bucket:rate1m"
REC_TTFT_P50: Final = "llm:time_to_first_token_seconds:p50_1m"
REC_TTFT_P95: Final = "llm:time_to_first_token_seconds:p95_1m"
REC_ITL_BUCKET: Final = "llm:inter_token_latency_seconds_bucket:rate1m"
REC_ITL_P50: Final = "llm:inter_token_latency_seconds:p50_1m"
REC_ITL_P95: Final = "llm:inter_token_latency_seconds:p95_1m"
REC_TPOT_BUCKET: Final = "llm:time_per_output_token_seconds_bucket:rate1m"
REC_TPOT_P50: Final = "llm:time_per_output_token_seconds:p50_1m"
REC_TPOT_P95: Final = "llm:time_per_output_token_seconds:p95_1m"
REC_E2E_BUCKET: Final = "llm:e2e_latency_seconds_bucket:rate1m"
REC_E2E_P50: Final = "llm:e2e_latency_seconds:p50_1m"
REC_E2E_P95: Final = "llm:e2e_latency_seconds:p95_1m"
REC_QUEUE_BUCKET: Final = "llm:queue_time_seconds_bucket:rate1m"
REC_QUEUE_P50: Final = "llm:queue_time_seconds:p50_1m"
REC_QUEUE_P95: Final = "llm:queue_time_seconds:p95_1m"
REC_PREFILL_BUCKET: Final = "llm:request_prefill_time_seconds_bucket:rate1m"
REC_PREFILL_P50: Final = "llm:request_prefill_time_seconds:p50_1m"
REC_PREFILL_P95: Final = "llm:request_prefill_time_seconds:p95_1m"
REC_DECODE_BUCKET: Final = "llm:request_decode_time_seconds_bucket:rate1m"
REC_DECODE_P50: Final = "llm:request_decode_time_seconds:p50_1m"
REC_DECODE_P95: Final = "llm:request_decode_time_seconds:p95_1m"
REC_PROMPT_LENGTH_BUCKET: Final = "llm:request_prompt_tokens_bucket:rate1m"
REC_PROMPT_LENGTH_P50: Final = "llm:request_prompt_tokens:p50_1m"
REC_PROMPT_LENGTH_P95: Final = "llm:request_prompt_tokens:p95_1m"
REC_OUTPUT_LENGTH_BUCKET: Final = "llm:request_output_tokens_bucket:rate1m"
REC_OUTPUT_LENGTH_P50: Final = "llm:request_output_tokens:p50_1m"
REC_OUTPUT_LENGTH_P95: Final = "llm:request_output_tokens:p95_1m"

# GPUs by (uuid, hostname, device, gpu_model), one vocabulary whichever the source
GROUP_GPU_VOCABULARY: Final = "gpu-vocabulary"
GROUP_EFFICIENCY: Final = "llm-efficiency"
REC_GPU_UTILIZATION: Final = "gpu:utilization:ratio"
REC_GPU_MEMORY_UTILIZATION: Final = "gpu:memory_utilization:ratio"
REC_GPU_MEMORY_USED: Final = "gpu:memory_used:bytes"
REC_GPU_MEMORY_TOTAL: Final = "gpu:memory_total:bytes"
REC_GPU_POWER: Final = "gpu:power:watts"
REC_GPU_POWER_LIMIT: Final = "gpu:power_limit:watts"
REC_GPU_ENERGY: Final = "gpu:energy_joules:total"
REC_GPU_TEMPERATURE: Final = "gpu:temperature:celsius"
REC_GPU_MEMORY_TEMPERATURE: Final = "gpu:memory_temperature:celsius"
REC_GPU_SM_CLOCK: Final = "gpu:sm_clock:hertz"
REC_GPU_MEMORY_CLOCK: Final = "gpu:memory_clock:hertz"
REC_GPU_THROTTLED: Final = "gpu:throttled:max"
"""By reason: 1 while clocks are held down for it."""
REC_GPU_ECC_UNCORRECTED: Final = "gpu:ecc_uncorrected:total"
REC_GPU_ECC_CORRECTED: Final = "gpu:ecc_corrected:total"
REC_GPU_LAST_XID: Final = "gpu:xid:last"
REC_GPU_XID_ERRORS: Final = "gpu:xid_errors:total"
REC_GPU_NVLINK: Final = "gpu:nvlink_bytes:rate1m"
REC_GPU_PCIE: Final = "gpu:pcie_bytes:rate1m"
# efficiency by (instance, model), of what the engine estimates it did per GPU
REC_FLOPS: Final = "llm:flops_per_gpu:rate1m"
REC_MEMORY_BYTES: Final = "llm:memory_bytes_per_gpu:rate1m"
REC_MFU: Final = "llm:mfu:ratio"
REC_MBU: Final = "llm:memory_bandwidth_utilization:ratio"

# service levels by (slo, model), and by tier or tenant where they have one; objective and thresholds by slo
GROUP_SLO: Final = "farthing-slo"
GROUP_SLO_BUDGET: Final = "farthing-slo-budget"
REC_SLO_OBJECTIVE: Final = "slo:objective:ratio"
REC_SLO_BUDGET: Final = "slo:error_budget:ratio"
REC_SLO_WINDOW: Final = "slo:window:seconds"
"""What the error budget is counted over."""
REC_SLO_GOOD: Final = "slo:good_events:rate5m"
REC_SLO_EVENTS: Final = "slo:events:rate5m"
REC_SLO_BAD: Final = "slo:bad_events:rate5m"
REC_SLO_ERROR_5M: Final = "slo:error_ratio:rate5m"
REC_SLO_ERROR_30M: Final = "slo:error_ratio:rate30m"
REC_SLO_ERROR_1H: Final = "slo:error_ratio:rate1h"
REC_SLO_ERROR_2H: Final = "slo:error_ratio:rate2h"
REC_SLO_ERROR_6H: Final = "slo:error_ratio:rate6h"
REC_SLO_ERROR_1D: Final = "slo:error_ratio:rate1d"
REC_SLO_ERROR_3D: Final = "slo:error_ratio:rate3d"
REC_SLO_ERROR_WINDOW: Final = "slo:error_ratio:rate_window"
"""Over the SLO's own window."""
REC_SLO_BURN_5M: Final = "slo:burn_rate:ratio5m"
REC_SLO_BURN_30M: Final = "slo:burn_rate:ratio30m"
REC_SLO_BURN_1H: Final = "slo:burn_rate:ratio1h"
REC_SLO_BURN_2H: Final = "slo:burn_rate:ratio2h"
REC_SLO_BURN_6H: Final = "slo:burn_rate:ratio6h"
REC_SLO_BURN_1D: Final = "slo:burn_rate:ratio1d"
REC_SLO_BURN_3D: Final = "slo:burn_rate:ratio3d"
REC_SLO_THRESHOLD_1H: Final = "slo:burn_threshold:ratio1h"
REC_SLO_THRESHOLD_6H: Final = "slo:burn_threshold:ratio6h"
REC_SLO_THRESHOLD_1D: Final = "slo:burn_threshold:ratio1d"
REC_SLO_THRESHOLD_3D: Final = "slo:burn_threshold:ratio3d"
REC_SLO_BUDGET_LEFT: Final = "slo:error_budget_remaining:ratio"
"""1 when nothing is used, 0 when all is, below when more is."""

DEFAULT_PORT: Final = 9464
"""Where ``farthing serve`` listens; the port OpenTelemetry registers for Prometheus exporters."""

LABEL_VERSION: Final = "version"
LABEL_CURRENCY: Final = "currency"
LABEL_INSTANCE: Final = "instance"
LABEL_JOB: Final = "job"
LABEL_KV_TOKENS: Final = "kv_tokens"
LABEL_BLOCK_SIZE: Final = "block_size"
LABEL_DTYPE: Final = "dtype"
LABEL_RUNNING_ADAPTERS: Final = "running_adapters"
LABEL_WAITING_ADAPTERS: Final = "waiting_adapters"
LABEL_MAX_ADAPTERS: Final = "max_adapters"
LABEL_CLUSTER: Final = "cluster"
"""External label of a Prometheus; whatever collects several of them has it on every series."""
LABEL_LE: Final = "le"
LABEL_SEVERITY: Final = "severity"
LABEL_TEAM: Final = "team"
LABEL_COMPONENT: Final = "component"
LABEL_TEST: Final = "farthing_test"
"""Of alerts that ``farthing alerts test`` fires; its value names the test."""

GROUP_PIPELINE_ALERTS: Final = "farthing-pipeline"
GROUP_DEAD_MAN: Final = "farthing-deadman"

# UIDs of dashboards; alerts link to them, so they never change
DASHBOARD_FLEET: Final = "farthing-fleet"
DASHBOARD_ECONOMICS: Final = "farthing-economics"
DASHBOARD_TENANTS: Final = "farthing-tenants"
DASHBOARD_SLO: Final = "farthing-slo"
DASHBOARD_LATENCY: Final = "farthing-latency"
DASHBOARD_ENGINE: Final = "farthing-engine"
DASHBOARD_GPUS: Final = "farthing-gpus"
DASHBOARD_BATCH: Final = "farthing-batch"
DASHBOARD_FARTHING: Final = "farthing-self"

RUNBOOK_BASE: Final = "https://github.com/farthing/farthing/blob/main/alerts/runbooks/"
"""Folder of the runbooks; an alert's name and ``.md`` make the URL of its own."""

SCRAPED_BOOT: Final = "scrape:"
"""Prefix of the boot of an engine that is costed from its counters, without the probe."""

DEVICE_BOOT: Final = "device:"
"""Prefix of the boot of a device's samples, which no engine sends."""

# ---- kinds of the inbox that no sender may send ----------------------------------------------------
INBOX_REFUSED: Final = "refused"
"""In the place of a record that intake refused, so that nobody waits for it."""
INBOX_SILENT: Final = "silent"
"""Nothing has come of a boot for a while: what is known of it settles, and it may go on."""
INBOX_ABANDONED: Final = "abandoned"
"""Nothing has come of a boot for so long that its books are closed."""

# ---- spans: OpenTelemetry's conventions for GenAI and HTTP where they have a name, farthing.* where they have none
SPAN_SERVICE: Final = "farthing-edge"
"""``service.name`` of the edge span's resource; ``service.instance.id`` is the engine's name."""
SPAN_SCOPE: Final = "farthing_probe"
RESOURCE_SERVICE: Final = "service.name"
RESOURCE_INSTANCE: Final = "service.instance.id"
EXEMPLAR_TRACE: Final = "trace_id"
"""Label of an exemplar that leads to a trace, as OpenMetrics' examples name it."""
SPAN_PROVIDER: Final = "vllm"
SPAN_FIRST_TOKEN: Final = "first_token"  # noqa: S105 - an event
SPAN_ABORTED: Final = "aborted"
ATTRIBUTE_OPERATION: Final = "gen_ai.operation.name"
ATTRIBUTE_PROVIDER: Final = "gen_ai.provider.name"
ATTRIBUTE_MODEL: Final = "gen_ai.request.model"
ATTRIBUTE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
ATTRIBUTE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
ATTRIBUTE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
ATTRIBUTE_CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
ATTRIBUTE_IMAGE_TOKENS: Final = "farthing.usage.image_tokens"
ATTRIBUTE_TENANT: Final = "farthing.tenant"
ATTRIBUTE_PROJECT: Final = "farthing.project"
ATTRIBUTE_TIER: Final = "farthing.tier"
ATTRIBUTE_OUTCOME: Final = "farthing.outcome"
ATTRIBUTE_REQUEST_ID: Final = "farthing.request_id"
ATTRIBUTE_ESTIMATE: Final = "farthing.cost.estimate_nano_usd"
ATTRIBUTE_ROUTE: Final = "http.route"
ATTRIBUTE_STATUS: Final = "http.response.status_code"
SPAN_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/chat/completions/batch": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/cohere/v2/chat": "chat",
    "/v1/completions": "text_completion",
    "/inference/v1/generate": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v2/embed": "embeddings",
}
"""``gen_ai.operation.name`` by route; of another route, its last part."""

CHECK_RESIDUAL: Final = "residual_is_zero"
CHECK_NOT_NEGATIVE: Final = "no_line_is_negative"
CHECK_UNATTRIBUTED: Final = "unattributed_is_small"
CHECK_FIT: Final = "fit_is_optimal"
CHECK_FIT_ERROR: Final = "fit_predicts"
CHECK_ONE_SIDED: Final = "both_sides_saw_every_request"
CHECK_REQUESTS: Final = "requests_equal_engine_counters"
CHECK_PROMPT: Final = "prompt_tokens_reconcile"
CHECK_OUTPUT: Final = "output_tokens_reconcile"
CHECK_PRICED: Final = "engine_has_a_price"
CHECK_ARRIVED: Final = "every_record_arrived"
CHECKS: Final = (
    CHECK_PRICED,
    CHECK_ARRIVED,
    CHECK_RESIDUAL,
    CHECK_NOT_NEGATIVE,
    CHECK_UNATTRIBUTED,
    CHECK_FIT,
    CHECK_FIT_ERROR,
    CHECK_ONE_SIDED,
    CHECK_REQUESTS,
    CHECK_PROMPT,
    CHECK_OUTPUT,
)
