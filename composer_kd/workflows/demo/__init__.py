"""The demo: measures how much a small student with few labels gains from a teacher, on bundled handwritten digits."""

from composer_kd.workflows.demo.results import Entry, Results, Settings
from composer_kd.workflows.demo.study import demo

__all__ = ['Entry', 'Results', 'Settings', 'demo']
