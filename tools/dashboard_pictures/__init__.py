"""Draws the dashboards as pictures from the answers of a Prometheus, for pages that are read where no Grafana is."""
