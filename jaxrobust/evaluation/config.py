"""What an evaluation is told, with defaults: the block `eval` of every config."""

from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxrobust.evaluation import analyses, protocols, robustbench


def defaults() -> Any:
    """Returns every field of an evaluation with its default."""
    return ConfigDict(
        {
            "batch_size": 250,
            "examples": 0,  # 0 = all test images
            # Of matrix products; `fast` for AutoAttack in bfloat16, checked in float32.
            "precision": "highest",
            # autoattack, adaptive, transfer or a paper's protocol, for `attacks`.
            "suite": "",
            "slots": 0,  # images AutoAttack works on at a time; 0 = its own choice
            # Adds examples until the 95 % intervals are at most this wide; 0 = off.
            "ci": 0.0,
            # In front of the network, such as jpeg:75+median:3; '' = nothing.
            "preprocessing": "",
            # Work directory of the network that transfer attacks come from; [a, b] for
            # several together.
            "transfer_from": "",
            "attacks": ConfigDict(protocols.gradient("8/255", "2/255", "linf")),
            # curve, growth, diagnostics ...: each says its own in its file.
            **analyses.defaults(),
            # Your own, by label: `name` package.module:object, and fields of it.
            "own_analyses": {},
            "grid": 8,  # images shown in the report
            "save_adversarial": False,
            # What robustbench.json says beside the numbers.
            "robustbench": dict(robustbench.ABOUT),
        }
    )


def without_analyses(
    fields: Mapping[str, Any], but: Collection[str] = ()
) -> dict[str, Any]:
    """Returns `config.eval` with its attacks and no analysis, `but` for some parts."""
    quiet: dict[str, Any] = {"own_analyses": {}}
    for name, part in analyses.defaults().items():
        own = {**part, **fields.get(name, {})}
        if name not in but and "enabled" in own:
            own["enabled"] = False
        quiet[name] = own
    if "curve" not in but:
        quiet["curve"]["eps"] = []
    if "corruption_set" not in but:
        quiet["corruption_set"]["path"] = ""
    return {**fields, **quiet}


def use_radius(fields: Any, eps: str, step_size: str) -> None:
    """Sets one Linf radius for the attacks and analyses of an evaluation."""
    fields.attacks = ConfigDict(protocols.gradient(eps, step_size, "linf"))
    analyses.use_radius(fields, eps, step_size)
