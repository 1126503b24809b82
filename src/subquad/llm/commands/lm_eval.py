"""`python -m subquad.llm.commands.lm_eval`: lm-eval's own command, which then knows the model `subquad`.

It takes lm-eval's arguments, such as `run --model subquad --model_args pretrained=linear --tasks hellaswag`.
"""

import sys

# registers the model
import subquad.llm  # noqa: F401
from subquad.errors import SubquadError, require


def main() -> int:
    """Run lm-eval with the arguments of this process; return the exit status."""
    try:
        require("lm_eval.__main__", "eval").cli_evaluate()
    except SubquadError as error:
        print(f"subquad: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
