"""Figures as ratios: what this product does, beside references measured in the same run on the same machine."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "faults"))  # the load client and the installation under test live there
