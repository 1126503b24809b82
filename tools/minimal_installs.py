"""Install each extra alone, start its commands, and check that an error names the extra of what is missing.

`python tools/minimal_installs.py [EXTRA …]` makes one environment per extra in build/minimal/. They share an
environment that has the dependencies without extras, so that torch is installed once. About 5 minutes and 4 GB in all.
"""

import json
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = ROOT / "build" / "minimal"
FIELDS = ("bio", "llm", "hep")
TINY_LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Check:
    """What an environment with one extra must do."""

    fields: tuple[str, ...] = ()
    """Fields whose help and public names must work."""
    works: tuple[str, ...] = ()
    """Commands that must succeed, one after the other, in one folder."""
    missing: tuple[tuple[str, str], ...] = ()
    """Commands that must fail, and a text that their message must contain."""


BIO_FIT = "bio fit example:tdp43 --epochs 0.1 --train-rows 100 --boosting-iterations 5 --ensemble-size 1 --out bio"
HEP_FIT = "hep fit example:jets --epochs 1 --no-boosting --out tagger"
CHECKS = {
    "": Check(
        missing=(
            ("bio fit example:tdp43 --out bio", "subquad[bio]"),
            ("llm plan config.json", "subquad[llm]"),
            ("hep fit example:jets --out tagger", "subquad[hep]"),
            ("app --port 0", "subquad[app]"),
        ),
    ),
    "app": Check(missing=(("app --host 0.0.0.0", "--password-file"),)),
    "bio": Check(
        fields=("bio",),
        works=(BIO_FIT,),
        missing=(
            ("bio fit pairs.csv --out pairs", "subquad[rna]"),
            ("bio embed example:tdp43 --model esm2 --out esm2.safetensors", "subquad[embed]"),
            ("llm plan config.json", "subquad[llm]"),
        ),
    ),
    "embed": Check(
        fields=("bio",),
        missing=(("bio embed example:tdp43 --model ./esm2 --out esm2.safetensors", "esm2: no such folder"),),
    ),
    "llm": Check(
        fields=("llm",),
        works=("llm plan config.json",),
        missing=(("llm serve missing", "subquad[serve]"), ("bio fit example:tdp43 --out bio", "subquad[bio]")),
    ),
    "serve": Check(fields=("llm",), works=("llm plan config.json",)),
    "hep": Check(
        fields=("hep",),
        works=(HEP_FIT,),
        missing=(
            ("hep export tagger --out tagger.onnx", "subquad[export]"),
            ("hep simulate --jets-per-class 10 --out jets", "pip install --only-binary pythia8mc"),
        ),
    ),
    "export": Check(fields=("hep",), works=(HEP_FIT, "hep export tagger --out tagger.onnx")),
}
"""By extra; the empty name is an installation without extras."""


def installed(folder: Path, requirement: str, base: Path | None) -> Path:
    """Return the Python of an environment that has the requirement, and what the environment `base` has."""
    python = folder / "bin" / "python"
    if folder.exists():
        shutil.rmtree(folder)
    venv.create(folder, with_pip=True)
    if base is not None:
        (site,) = folder.glob("lib/python*/site-packages")
        (shared,) = base.glob("lib/python*/site-packages")
        (site / "shared.pth").write_text(f"{shared}\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement], check=True)
    return python


def run(python: Path, arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one command of subquad."""
    return subprocess.run(
        [python, "-m", "subquad", *arguments.split()], cwd=folder, capture_output=True, text=True, check=False
    )


def commands_of(python: Path, field: str) -> list[str]:
    """Return the names of the commands of a field."""
    code = f"from subquad.cli import app; print(*(name for name in app[{field!r}] if not name.startswith('-')))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def problems(python: Path, check: Check, folder: Path) -> list[str]:
    """Return what went wrong in one environment, one line each."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY_LLAMA))
    stems = ["".join(letters) for letters in product("ACGU", repeat=4)]
    hairpins = [f"{stem}AAAA{stem[::-1].translate(str.maketrans('ACGU', 'UGCA'))},((((....))))" for stem in stems]
    (folder / "pairs.csv").write_text("\n".join(["sequence,base_pairs", *hairpins]) + "\n")
    helps = ["--help", *(f"{field} --help" for field in FIELDS)]
    helps += [f"{field} {command} --help" for field in check.fields for command in commands_of(python, field)]
    found = []
    for arguments in [*helps, *check.works]:
        done = run(python, arguments, folder)
        if done.returncode:
            found.append(f"subquad {arguments}: exit status {done.returncode}\n{done.stderr[-1500:]}")
    for arguments, text in check.missing:
        done = run(python, arguments, folder)
        if done.returncode != 2 or text not in done.stderr:
            found.append(f"subquad {arguments}: the message does not contain {text!r}\n{done.stderr[-1500:]}")
    for field in check.fields:
        code = f"import subquad.{field} as field; [getattr(field, name) for name in field.__all__]"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            found.append(f"public names of subquad.{field}\n{done.stderr[-1500:]}")
    return found


def main(extras: list[str]) -> int:
    """Check the named extras, or all of them."""
    base = HOME / "base"
    installed(base, str(ROOT), None)
    status = 0
    for extra in extras or CHECKS:
        name = extra or "none"
        python = installed(HOME / name, f"{ROOT}[{extra}]" if extra else str(ROOT), base)
        folder = HOME / f"{name}-work"
        shutil.rmtree(folder, ignore_errors=True)
        found = problems(python, CHECKS[extra], folder)
        print(f"{extra or 'no extra'}: {'ok' if not found else f'{len(found)} problems'}", flush=True)
        for line in found:
            print(f"  {line}", flush=True)
        status |= bool(found)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
