"""Figures as ratios: what this product does, beside references measured in the same run on the same machine."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
