"""Negative controls: the product broken on purpose, one way at a time; each must turn the test red that guards it."""
