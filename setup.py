"""Finds the packages, which lie in several folders; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

# Packages that are not where their names say. A link `src/livecc_hf/modeling` is for editors and type checkers only.
MAPPED = {"livecc_hf.modeling": "modeling", "livecc_hf.recipes": "recipes", "livecc_hf.examples": "examples"}

setup(
    packages=sorted({*find_packages("src"), *MAPPED}),
    package_dir={"livecc_hf": "src/livecc_hf"} | MAPPED,
)
