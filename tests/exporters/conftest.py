"""The browser that tests of pages share within a module."""

from tests.exporters.browsing import browser

__all__ = ["browser"]
