"""What rules and dashboards ask of Prometheus, each question written once.

A rule asks it of the whole fleet, a panel of what the reader has chosen: that is the ``Scope``.
"""
