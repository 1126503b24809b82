"""Evaluations as their pages read them, without any measurement."""

import re

ROLES = ["teacher", "window", "fine_tuned_without_linear", "fine_tuned"]


def lead_of(page):
    return re.search(r"<header>.*?<p>(.*?)</p>", page, flags=re.DOTALL)[1]


def evaluation(*, roles=ROLES):
    about = {
        "folder": "student", "teacher": "teacher", "tokens": None, "trained_length": 31, "roles": roles, "visible": 6,
    }  # fmt: skip
    models = {role: {"value": 2.0, "low": 1.0, "high": 3.0} for role in roles}
    differences = {role: {"value": 0.0, "low": None, "high": None} for role in roles[:-1]}
    compared = {"models": models, "differences": differences, "gap_closed": {"value": 0.5, "low": 0.4, "high": 0.6}}
    text = {**compared, "items": 10, "positions": [{"from": 17, "to": 31, **compared}]}
    return {
        "models": [{"about": about, "perplexity": {"words.txt": text}, "tasks": {}, "passkey": {}, "speed": {}}],
        "machine": "two cores",
        "subquad": {"version": "0", "settings": {"dtype": "float32", "limit": None, "resamples": 100}},
    }
