"""The start of the command line, also of `python -m subquad` and, for several processes, `torchrun -m subquad`."""

import sys


def main() -> int:
    """Run the command of this process; see `subquad.cli.main`."""
    try:
        from subquad.cli import main as run
    except KeyboardInterrupt:
        # while packages are imported, which can take seconds
        print("subquad: interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
