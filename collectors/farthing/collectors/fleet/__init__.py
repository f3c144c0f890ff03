"""Engines' counters from a Prometheus-compatible API, for fleets that are scraped already."""
