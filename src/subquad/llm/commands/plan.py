"""`subquad llm plan`: estimate the costs of linearizing models from their configs, without loading weights."""

from collections.abc import Sequence
from pathlib import Path

from subquad.llm.planning.cost_estimate import CostEstimate, estimate_costs
from subquad.llm.planning.settings import PlanSettings


def plan(configs: str | Path | Sequence[str | Path], settings: PlanSettings | None = None) -> dict[str, CostEstimate]:
    """Estimate the costs of linearizing models.

    Args:
        configs: A `config.json`, its folder, or a name such as `llama-3.1-8b`; or several of them.
        settings: How the models are linearized, and on which GPUs; None for the defaults.

    Returns:
        The estimate of each config, by its name.

    Raises:
        SubquadError: A config cannot be read, or its model cannot be linearized.
    """
    settings = settings or PlanSettings()
    configs = [configs] if isinstance(configs, str | Path) else configs
    return {str(config): estimate_costs(config, settings) for config in configs}
