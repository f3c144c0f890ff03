-- Fills an empty ledger for bench_reports: statements are separated by lines of ---, names after a dollar sign are put in.
-- Requests; a tenant's share falls with the square of its number.
INSERT INTO requests (boot, process, sequence, engine, request_id, ended_wall_ns, tenant, project, workload, tier, model,
                      outcome, status, seen_by, trace_id, prompt_computed, prompt_cached, image_tokens, output_tokens,
                      prefill_nano, decode_nano, vision_nano, energy_mj, saved_nano)
$series
SELECT 'boot-' || e, 0, i, 'engine-' || e, 'request-' || (10000000 + i), at, $tenant, 'project-' || t % 3,
       'workload-' || i / 50, 'chat', 'model-' || e % $models, CASE WHEN h % 37 = 0 THEN 'aborted' ELSE 'finished' END,
       200, 'both', '', 400 + h % 1000, h % 300, 0, 20 + h % 400, 10000 + h, 50000 + h * 3, 0, 0, h
FROM (SELECT i, h, at, h % $engines AS e, CAST(floor($tenants * (h / 1000003.0) * (h / 1000003.0)) AS integer) AS t
      FROM (SELECT i, (i * 7919 + i / 13 * 104729) % 1000003 AS h, $start + i * $step AS at FROM n) AS hashed) AS named
---
-- A journal line for each of them.
INSERT INTO journal (boot, engine_index, start_ns, wall_start_ns, wall_end_ns, engine, debit, credit, phase, tenant,
                     project, model, tier, reason, method, nano, state, fit_version, price_version, policy_version,
                     period)
$series
SELECT 'boot-' || e, 0, at - at % 5000000000, at - at % 5000000000, at - at % 5000000000 + 5000000000, 'engine-' || e,
       CASE WHEN h % 37 = 0 THEN 'aborted' ELSE 'charged' END, 'gpu_allocation',
       CASE WHEN i / 1000 % 3 = 0 THEN 'prefill' ELSE 'decode' END, $tenant, 'project-' || t % 3,
       'model-' || e % $models, 'chat', '', 'modelled', 60000 + h * 4, 'settled', 'f', 'p', 'v', '2026-10'
FROM (SELECT i, h, at, h % $engines AS e, CAST(floor($tenants * (h / 1000003.0) * (h / 1000003.0)) AS integer) AS t
      FROM (SELECT i, (i * 7919 + i / 13 * 104729) % 1000003 AS h, $start + i * $step AS at FROM n) AS hashed) AS named
---
-- The sums that postings keep, from here on: of cost,
INSERT INTO cost_hours
SELECT (wall_end_ns - 1) / $hour, period, engine, debit, phase, tenant, project, model, tier, reason, method,
       sum(nano), 0, 0
FROM journal GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
---
-- with idle time in every hour,
INSERT INTO cost_hours
SELECT DISTINCT hour, period, engine, 'idle', '', '', '', model, '', '', 'metered', 1000000000, 0, 0 FROM cost_hours
---
INSERT INTO window_hours
SELECT hour, engine, sum(nano), 0, 720, 0, 0, 0, 0, 0, 0, 0 FROM cost_hours GROUP BY hour, engine
---
-- of requests and tokens,
INSERT INTO usage_hours
SELECT ended_wall_ns / $hour, '2026-10', engine, tenant, project, model, tier, outcome, count(*), sum(prompt_computed),
       sum(prompt_cached), sum(image_tokens), sum(output_tokens), 0, 0
FROM requests GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
---
-- of what caches saved,
INSERT INTO saving_hours
SELECT ended_wall_ns / $hour, '2026-10', engine, tenant, project, model, tier, sum(saved_nano)
FROM requests GROUP BY 1, 2, 3, 4, 5, 6, 7
---
-- and of boots, all of which are closed.
INSERT INTO boot_lines
SELECT 'boot-' || substr(engine, 8), period, account, sum(nano) FROM cost_hours GROUP BY engine, period, account
---
INSERT INTO boots (boot, engine, kind, model, gpu, gpu_count, price_version, wall_ns, mono_ns, started_ns, closed_ns,
                   bill_nano, covered_ns)
SELECT 'boot-' || substr(engine, 8), engine, 'vllm', 'm', 'H100-SXM', 1, 'p', 0, 0, $start,
       max(hour + 1) * $hour, sum(bill_nano), 0
FROM window_hours GROUP BY engine
---
INSERT INTO probed_engines SELECT engine, 1 FROM boots
