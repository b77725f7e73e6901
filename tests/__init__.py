"""Tests, and the harness that benchmarks use too."""
