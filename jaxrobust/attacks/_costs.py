"""How often attacks evaluate a model, from their options."""

from typing import Any, NamedTuple

from jaxrobust.attacks._fab_logits import CANDIDATES


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
    """A gradient per step and restart."""
    runs, steps = o.get("restarts", 1), o.get("steps", 1)
    ends = 2 if o.norm == "l1" and "steps" in o else 0  # the best point is looked for
    return Cost(runs * steps, runs * ends + (runs if runs > 1 else 0))


def of_apgd(o: Options) -> Cost:
    """APGD, of all targets; in L1 it runs three times."""
    runs = o.restarts * min(o.get("targets", 1), o.classes - 1)
    steps = o.steps + 2 * o.get("large_radius", False)
    return Cost(runs * (steps + 1), runs + 1)


def of_fab(o: Options) -> Cost:
    """FAB, of all targets."""
    targets = min(o.targets or 1, o.classes - 1)
    each = 1 if o.targets else o.classes
    runs = o.restarts * targets
    return Cost(runs * o.steps * each, runs * (o.steps + 2))


def aims_at(classes: int) -> int:
    """Gradients at the image by which classes are ordered by their boundaries."""
    return min(classes, CANDIDATES + 1)


def of_targets(o: Options) -> Cost:
    """As `of_steps`, for each target."""
    targets = min(o.targets, o.classes - 1)
    once = of_steps(o)
    runs = o.restarts * targets
    aims = runs * (aims_at(o.classes) if o.order == "boundaries" else 0)
    calls = runs * (2 + 2 * (o.norm == "l1"))  # the first logits, and a score
    return Cost(targets * once.gradients + aims, calls)


def of_views(o: Options) -> Cost:
    """As `of_steps`, for each copy of the image, and around each neighbour."""
    gradients, calls = of_steps(o)
    return Cost(gradients * o.scales * max(o.mixed, 1) * (1 + o.neighbours), calls)


def of_search(o: Options) -> Cost:
    """A look per query, and one at the first point."""
    return Cost(0, o.restarts * (o.queries + 1))


def of_descent(o: Options) -> Cost:
    """A gradient per step."""
    return Cost(o.steps, 0)


def of_boundary_steps(o: Options) -> Cost:
    """A gradient per step, and looks for a first point at the boundary."""
    return Cost(o.steps, 21)


def of_gradients(o: Options) -> Cost:
    """A gradient per step, and two looks per restart."""
    return Cost(o.restarts * o.steps, 2 * o.restarts)


def of_estimates(o: Options) -> Cost:
    """A look per step, and `samples` for its gradient."""
    return Cost(0, o.restarts * (o.steps * (o.samples + 1) + 2))


def of_queries(o: Options) -> Cost:
    """All `queries`, as a budget."""
    return Cost(0, o.queries)


def of_steps_of_three(o: Options) -> Cost:
    """Three looks a step and two at the end, as many as `queries` have room for."""
    steps = max(0, (o.queries // o.get("eot_samples", 1) - 2) // 3)
    return Cost(0, o.restarts * (3 * steps + 2) * o.get("eot_samples", 1))


def of_population(o: Options) -> Cost:
    """A look at each member of each generation."""
    return Cost(0, o.restarts * (o.population * (o.steps + 1) + 1))


def of_zoo(o: Options) -> Cost:
    """Two looks per coordinate of a step."""
    return Cost(0, o.binary_steps * o.steps * (2 * o.coordinates + 1) + 1)


def of_binary_steps(o: Options) -> Cost:
    """A gradient per step of each search."""
    return Cost(o.binary_steps * o.steps, 2)


def of_descents(o: Options) -> Cost:
    """A gradient and a look per step of each search."""
    return Cost(o.binary_steps * o.steps, o.binary_steps * o.steps + 2)


def of_poses(o: Options) -> Cost:
    """A look per pose, and two at the image."""
    grid = o.angles * o.shifts**2
    return Cost(0, 2 + (grid if o.search == "grid" else o.draws))


def of_draws(o: Options) -> Cost:
    """A look per draw, and two at the image."""
    return Cost(0, 2 + o.draws)


def of_changes(o: Options) -> Cost:
    """As APGD; a penalty has a look at the image of its own."""
    gradients, calls = of_apgd(o)
    own = gradients + 1 if o.get("smoothness") else 0
    return Cost(gradients, calls + own)


def of_patch(o: Options) -> Cost:
    """A look per place, then as APGD."""
    gradients, calls = of_apgd(o)
    return Cost(gradients, calls + o.places + 2)
