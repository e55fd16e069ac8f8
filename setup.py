"""Lets tools that know only setup.py build the package; pyproject.toml describes it."""

from setuptools import setup

setup()
