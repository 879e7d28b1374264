"""The demo: on bundled handwritten digits, what does a small student gain from a teacher when labels are few?"""

from composer_kd.workflows.demo.results import Entry, Results, Settings
from composer_kd.workflows.demo.study import demo

__all__ = ['Entry', 'Results', 'Settings', 'demo']
