"""Lets old tools build composer_kd; what it is called and what it needs stands in pyproject.toml."""

from setuptools import setup

setup()
