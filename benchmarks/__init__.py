"""Benchmarks. Most figures are ratios to a reference that is measured in the same run on the same machine."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
