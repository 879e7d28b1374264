"""The roles of models in a comparison."""

from __future__ import annotations

__all__ = ['ALONE', 'DISTILLED', 'TEACHER']


TEACHER, ALONE, DISTILLED = 'teacher', 'student alone', 'student distilled'
"""The roles of models, as written to the files of ``composer-kd bench`` and ``composer-kd report``."""
