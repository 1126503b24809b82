"""Readers that fail, for processes that import them by name."""

import operator
import os
import subprocess
import time

import numpy as np

from subquad.errors import SubquadError

divide, repeat = operator.truediv, operator.mul


def fill_memory():
    return len([np.empty(2**28) for _ in range(4)])


def crash():
    os._exit(139)


def nap_with_a_child(path):
    path.write_text(str(subprocess.Popen(["sleep", "60"]).pid))
    time.sleep(60)


def refuse(path):
    raise SubquadError(f"{path}: row 3: no sequence")
