"""The number of examples that hypothesis draws."""

from hypothesis import settings


def examples(count, **options):
    """Return hypothesis settings with `count` examples, or with the profile's number where that is smaller."""
    return settings(max_examples=min(count, settings.default.max_examples), **options)
