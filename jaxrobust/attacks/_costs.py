"""What attacks cost, of their options."""

from typing import Any, NamedTuple


class Cost(NamedTuple):
    """Model evaluations per image at most: gradients, and forward passes alone."""

    gradients: int
    calls: int


class Options(dict[str, Any]):
    """Options with their defaults, and `classes` and `size` (numbers per image)."""

    def __getattr__(self, name: str) -> Any:
        """Returns an option."""
        return self[name]


def of_steps(o: Options) -> Cost:
    """One gradient a step."""
    runs, steps = o.get("restarts", 1), o.get("steps", 1)
    ends = 2 if o.norm == "l1" and "steps" in o else 0  # the best point is looked for
    return Cost(runs * steps, runs * ends + (runs if runs > 1 else 0))


def of_apgd(o: Options) -> Cost:
    """One more than there are steps, for each target."""
    runs = o.restarts * min(o.get("targets", 1), o.classes - 1)
    steps = o.steps + 2 * o.large_radius
    return Cost(runs * (steps + 1), runs + 1)


def of_fab(o: Options) -> Cost:
    """A gradient per class and step, or one where there is a target."""
    targets = min(o.targets or 1, o.classes - 1)
    each = 1 if o.targets else o.classes
    runs = o.restarts * targets
    return Cost(runs * o.steps * each, runs * (o.steps + 2))


def of_targets(o: Options) -> Cost:
    """As `of_steps`, for each target."""
    targets = min(o.targets, o.classes - 1)
    once = of_steps(o)
    runs = o.restarts * targets
    aims = runs * (o.classes if o.order == "boundaries" else 0)
    calls = runs * (2 + 2 * (o.norm == "l1"))  # the first logits, and a score
    return Cost(targets * once.gradients + aims, calls)


def of_views(o: Options) -> Cost:
    """As `of_steps`, for each copy of the image, and around each neighbour."""
    gradients, calls = of_steps(o)
    return Cost(gradients * o.scales * max(o.mixed, 1) * (1 + o.neighbours), calls)
