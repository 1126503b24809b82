"""Compare the size of the code with `budget.toml`, whose numbers only go down: `make lint` runs it.

`python tools/budget.py --lower` writes the present numbers where they are below the budget.
"""

import re
import sys
import tomllib
from pathlib import Path

__all__ = ["main", "measured"]

ROOT = Path(__file__).parents[1]
BUDGET = Path(__file__).with_name("budget.toml")
SRC = ROOT / "src" / "subquad"
TOP = "top"
"""Name of the modules that are in no package: the command line, the demo, errors, progress, export."""
RAISES = re.compile(r"raise (SubquadError|unknown|missing_extra)\(")


def measured() -> dict[str, dict[str, int]]:
    """Return the present numbers by table and name."""
    packages = {TOP: [*SRC.glob("*.py")]}
    packages |= {path.name: [*path.rglob("*.py")] for path in SRC.iterdir() if (path / "__init__.py").is_file()}
    files = [file for package in packages.values() for file in package]
    folders = {str(file.parent.relative_to(SRC)) for file in files}
    shown, flags = flags_of_commands()
    return {
        "lines": {name: sum(map(lines, package)) for name, package in sorted(packages.items())}
        | {"total": sum(map(lines, files))},
        "other": {
            "modules": len(files),
            "modules of a package": max(len([*(SRC / folder).glob("*.py")]) for folder in folders),
            "raise SubquadError": sum(len(RAISES.findall(file.read_text(encoding="utf-8"))) for file in files),
            "flags in --help": max(shown.values()),
            "flags of a command": max(flags.values()),
            "lines of tests": sum(map(lines, (ROOT / "tests").rglob("*.py"))),
            "lines of docs": sum(map(lines, (ROOT / "docs").glob("*.md"))),
        },
    }


def lines(file: Path) -> int:
    """Return the number of lines of a file."""
    return len(file.read_text(encoding="utf-8").splitlines())


def flags_of_commands() -> tuple[dict[str, int], dict[str, int]]:
    """Return the number of flags that `--help` shows, and that there are, of each command."""
    from subquad.cli import FIELDS, app
    from subquad.runs.options import MORE

    shown, flags = {}, {}
    commands = [(field, name) for field in FIELDS for name in app[field] if not name.startswith("-")]
    for words in [*commands, ("demo",), ("app",)]:
        command = app
        for word in words:
            command = command[word]
        arguments = [argument for argument in command.assemble_argument_collection() if argument.name.startswith("--")]
        groups = [[group.name for group in argument.parameter.group or ()] for argument in arguments]
        flags[" ".join(words)] = len(arguments)
        shown[" ".join(words)] = sum(not any(name.startswith(MORE) for name in names) for names in groups)
    return shown, flags


def main() -> int:
    """Print what is above its budget; return 1 if anything is."""
    budget, now = tomllib.loads(BUDGET.read_text(encoding="utf-8")), measured()
    if "--lower" in sys.argv:
        text = "# Upper limits, which only go down: `python tools/budget.py --lower` writes the present numbers.\n"
        for table, rows in now.items():
            limits = {name: min(count, budget.get(table, {}).get(name, count)) for name, count in rows.items()}
            text += f"\n[{table}]\n" + "".join(f'"{name}" = {limit}\n' for name, limit in limits.items())
        BUDGET.write_text(text, encoding="utf-8")
        return 0
    above = [
        f"{table}: {name}: {count:,}, and the budget is {budget.get(table, {}).get(name, 0):,}"
        for table, rows in now.items()
        for name, count in rows.items()
        if count > budget.get(table, {}).get(name, 0)
    ]
    print("\n".join(above) or f"size: {now['lines']['total']:,} lines, all within the budget")
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())
