"""Property tests are bounded by their examples, never by a clock: this machine may be busy."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None, max_examples=100)
settings.load_profile("unhurried")
