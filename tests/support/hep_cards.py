"""Data cards of JetClass, and how jets are read by one."""

from dataclasses import replace
from pathlib import Path

import yaml

from subquad.hep.data.chunks import read_chunks
from subquad.hep.data.layout import layout_of
from subquad.hep.models.presets import PRESETS

CARDS = Path(__file__).parents[1] / "hep" / "cards"
NET = replace(PRESETS["standard"].net, has_jet_features=False)


def options(kind="full"):
    return yaml.safe_load((CARDS / f"JetClass_{kind}.yaml").read_text())


def written(path, content):
    path.write_text(yaml.safe_dump(content))
    return str(path)


def chunks_of(files, card, *, is_training=True):
    return list(read_chunks(files, layout_of(NET, card), is_training=is_training))
