"""What each loss is held to: one entry per name of ``composer_kd.losses.__all__``, grouped by kind of knowledge.

A loss of your own gets the same treatment by one line in ``CASES``: ``'my_loss': Case(my_loss)``.
"""

from composer_kd.testing import Case, logits

__all__ = ['Case', 'logits']
