"""Readers that fail, for processes that import them by name."""

import os
import time

import numpy as np

from subquad.errors import SubquadError


def fill_memory():
    return [np.empty(2**28) for _ in range(4)]


def crash():
    os._exit(139)


def nap():
    time.sleep(30)


def refuse(path):
    raise SubquadError(f"{path}: row 3: no sequence")
