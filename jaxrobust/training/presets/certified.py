"""What the configs of certified training have in common: IBP, CROWN-IBP, SABR."""

from typing import Any

from jaxrobust._checks import check_choice
from jaxrobust.training import config as common

OBJECTIVES = ("crown_ibp", "ibp", "sabr")
ARGUMENTS: dict[str, str | int | bool] = {
    "objective": "crown_ibp",
    "eps": "",
    "size": "large",
    "budget": "",
    "quick": False,
}


def use_objective(config: Any, options: Any, small_box: float, epochs: float) -> None:
    """Sets objective, optimiser, epochs and proof, after the radius.

    Adam at 5e-4; the radius grows over the first half. `small_box` is SABR's, a share
    of the radius. What it trained is proved by CROWN, all else by IBP.
    """
    check_choice("objective", options.objective, OBJECTIVES)
    config.objective.name = options.objective
    config.objective.kappa = 0.5
    proof = "ibp"
    if options.objective == "sabr":
        config.objective.update(kappa=0.0, small_box=small_box)
        proof = "crown"
    config.optimizer.update(name="adam", learning_rate=5e-4, weight_decay=0.0)
    config.train.epochs = epochs
    config.objective.attack_warmup_epochs = epochs / 2
    config.eval.certify.update(enabled=True, method=proof, examples=1000)


def finish(config: Any, options: Any) -> None:
    """Applies `budget` and `quick`, both with the small network."""
    if options.budget == "cpu":
        common.fit_cpu(config, epochs=2.0)
        if not common.given(options, "size"):
            config.model.size = "small"
        config.objective.attack_warmup_epochs = 1.0
        config.schedule.milestones = (1.5,)
        config.eval.certify.examples = 200
    elif options.budget:
        raise ValueError(f"`budget` is cpu or left out, got {options.budget!r}.")
    if options.quick:
        common.shrink(config)
        config.model.size = "small"
        config.objective.attack_warmup_epochs = 0.5
