"""List what is installed as a CycloneDX bill of materials, and look up known vulnerabilities of each package.

`python tools/audit.py PYTHON`, with the Python of the environment to audit, from an environment with the extra `audit`.
It leaves bom.json and vulnerabilities.json in build/audit/, and exits with 0 only if every package was looked up and
none has a known vulnerability; with 2 if no advisory service answers.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "audit"
SERVICES = ("pypi", "osv")
KNOWN = "requests==2.19.0"
"""A version with published vulnerabilities. A service that does not report them gives no advisories at all, as mirrors
of the package index do, and its answer to other packages says nothing."""


def main() -> None:
    """Write the bill of materials, find a service that answers, and look up all packages."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    python = sys.argv[1]
    WORK.mkdir(parents=True, exist_ok=True)
    bom = WORK / "bom.json"
    module("cyclonedx_py", "environment", "--of", "JSON", "--pyproject", ROOT / "pyproject.toml", "-o", bom, python)
    count = len(json.loads(bom.read_text(encoding="utf-8"))["components"])
    print(f"{bom.relative_to(ROOT)}: {count} packages")

    answers = {service: look_up([KNOWN], service) for service in SERVICES}
    service = next((name for name, answer in answers.items() if vulnerable(answer)), None)
    if service is None:
        reasons = "\n".join(f"  {name}: {answer.get('error', 'it does not know')}" for name, answer in answers.items())
        print(f"NOT AUDITED: no advisory service reports the vulnerabilities of {KNOWN}:\n{reasons}", file=sys.stderr)
        print("Run this where pypi.org or api.osv.dev can be reached; a mirror has no advisories.", file=sys.stderr)
        sys.exit(2)
    answer = look_up(installed(python), service)
    (WORK / "vulnerabilities.json").write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    if "error" in answer:
        sys.exit(f"NOT AUDITED: {service}: {answer['error']}")
    unknown = [f"{one['name']}: {one['skip_reason']}" for one in answer["dependencies"] if "skip_reason" in one]
    found = [
        f"{one['name']} {one['version']}: {', '.join(v['id'] for v in one['vulns'])}" for one in vulnerable(answer)
    ]
    for title, lines in (("not looked up", unknown), ("with known vulnerabilities", found)):
        print("\n".join([f"{len(lines)} of {len(answer['dependencies'])} packages {title} ({service})", *lines]))
    sys.exit(bool(unknown or found))


def module(name: str, *arguments: str | Path) -> None:
    """Run a module of this environment, and exit where it fails."""
    done = subprocess.run([sys.executable, "-m", name, *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(f"{name} exited with status {done.returncode}")


def installed(python: str) -> list[str]:
    """Return the packages of an environment with their published versions; subquad itself has none."""
    code = (
        "from importlib.metadata import distributions as d; print(*(f'{o.name}=={o.version}' for o in d()), sep='\\n')"
    )
    lines = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    # +cpu: the build of a published version
    return sorted({line.partition("+")[0] for line in lines if not line.startswith("subquad==")})


def look_up(packages: list[str], service: str) -> dict:
    """Return the report of pip-audit, or its last line as `error`."""
    listed = WORK / "packages.txt"
    listed.write_text("\n".join(packages) + "\n", encoding="utf-8")
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout", "30"]
    command = [sys.executable, "-m", "pip_audit", "-r", str(listed), "-s", service, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        return {"error": (done.stderr.strip().splitlines() or ["no answer"])[-1]}


def vulnerable(answer: dict) -> list[dict]:
    """Return the packages of a report that have known vulnerabilities."""
    return [one for one in answer.get("dependencies", []) if one.get("vulns")]


if __name__ == "__main__":
    main()
