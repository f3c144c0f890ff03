"""Seeded requests: who asks, for how much, with which shared texts and images, and who will hang up."""

from __future__ import annotations

import numpy as np
from tests.simulation.config import Lengths, SimConfig, TenantLoad
from tests.simulation.requests import Image, Segment, Spec

__all__ = ["Workload"]


class Workload:
    """Makes one request after the other; equal seeds make equal requests."""

    def __init__(self, config: SimConfig, rng: np.random.Generator) -> None:
        self._config = config
        self._rng = rng
        self._count = 0
        self._repeats: dict[str, list[tuple[str, int]]] = {}
        self._weights: dict[tuple[str, ...], tuple[list[TenantLoad], list[float]]] = {}

    def exponential_ns(self, mean_ns: float) -> int:
        """A random duration with this mean."""
        return round(float(self._rng.exponential(mean_ns)))

    def uniform_ns(self, most_ns: float) -> int:
        """A random duration up to this."""
        return round(float(self._rng.random()) * most_ns)

    def lognormal_ns(self, median_ns: float, sigma: float = 0.5) -> int:
        """A random duration with this median."""
        return round(median_ns * float(np.exp(sigma * self._rng.standard_normal())))

    def frontend_ns(self, spec: Spec) -> int:
        """How long an API server needs before the engine has the request: tokenizer, image processor, transport."""
        o = self._config.observation
        fixed = self.lognormal_ns(o.frontend_ns)
        return fixed + round(o.frontend_token_ns * spec.prompt_tokens + o.frontend_image_ns * len(spec.images))

    def request(self, tenants: tuple[str, ...] = ()) -> Spec:
        """The next request, of one of these tenants (none named: of all)."""
        tenant = self._tenant(tenants)
        rng = self._rng
        number = self._count
        self._count += 1
        prefix_key, prefix = self._prefix(tenant)
        own = self._length(tenant.prompt)
        images = self._images(tenant, prefix + own // 2)
        prompt = prefix + own + sum(image.tokens for image in images)
        n = int(rng.integers(2, 5)) if rng.random() < tenant.several else 1
        outputs = tuple(self._length(tenant.output) for _ in range(n))
        early, late = rng.random() < tenant.abort_early, rng.random() < tenant.abort_late
        after = int(rng.integers(1, max(2, outputs[0]))) if late and not early else None
        rejected = bool(rng.random() < tenant.rejected)
        adapter = tenant.adapters and rng.random() < 0.5
        return Spec(
            request_id=f"{self._config.seed}-{number}",
            tenant=tenant.name,
            tier=tenant.tier,
            model=str(rng.choice(tenant.adapters)) if adapter else self._config.model,
            prompt_tokens=prompt,
            segments=self._segments(number, prefix_key, prefix, prompt, n),
            images=images,
            outputs=outputs,
            stops=tuple(bool(rng.random() < tenant.stopping) for _ in range(n)),
            patience_ns=self.exponential_ns(tenant.patience_ns) + 1 if early else None,
            abort_after=after,
            streamed=bool(rng.random() >= tenant.unstreamed),
            told=bool(rng.random() < self._config.observation.told),
            rejected=rejected,
            status=(429 if rng.random() < 0.5 else 400) if rejected else 200,
        )

    def _tenant(self, names: tuple[str, ...]) -> TenantLoad:
        if names not in self._weights:
            found = [tenant for tenant in self._config.tenants if not names or tenant.name in names]
            total = sum(tenant.weight for tenant in found)
            self._weights[names] = found, [tenant.weight / total for tenant in found]
        tenants, weights = self._weights[names]
        if len(tenants) == 1:
            return tenants[0]
        return tenants[int(self._rng.choice(len(tenants), p=weights))]

    def _length(self, lengths: Lengths) -> int:
        drawn = lengths.median * float(np.exp(lengths.sigma * self._rng.standard_normal()))
        return min(lengths.high, max(lengths.low, round(drawn)))

    def _prefix(self, tenant: TenantLoad) -> tuple[str, int]:
        prefix = tenant.prefix
        if prefix is None or self._rng.random() >= prefix.share:
            return "", 0
        return f"{prefix.owner or tenant.name}/{int(self._rng.integers(prefix.groups))}", prefix.tokens

    def _images(self, tenant: TenantLoad, start: int) -> tuple[Image, ...]:
        load, rng = tenant.images, self._rng
        if load is None or rng.random() >= load.share:
            return ()
        pool = self._repeats.setdefault(tenant.name, [])
        images = []
        for _ in range(int(rng.integers(1, load.most + 1))):
            if pool and rng.random() < load.repeated:
                key, tokens = pool[int(rng.integers(len(pool)))]
            else:
                key, tokens = f"{tenant.name}/{rng.integers(2**60)}", int(rng.choice(load.tokens))
                pool.append((key, tokens))
                del pool[: -load.pool]
            images.append(Image(start, tokens, key))
            start += tokens
        return tuple(images)

    def _segments(self, number: int, key: str, prefix: int, prompt: int, n: int) -> tuple[Segment, ...]:
        block = self._config.limits.block_tokens
        segments = [Segment(key, prefix // block)] if prefix >= block else []
        own = prompt // block - prefix // block
        if n > 1 and own > 0:
            # siblings have one prompt; nobody else has it
            segments.append(Segment(f"request/{number}", own))
        return tuple(segments)
