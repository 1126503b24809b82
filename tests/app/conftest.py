"""Tests of the page; they are skipped without gradio."""

import pytest

pytest.importorskip("gradio")
