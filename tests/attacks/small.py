"""Options that make attacks small, for the tests that run every one of the registry.

One that is not here runs with its defaults.
"""

import functools
import inspect

import jax

from jaxrobust.attacks import registry

SMALL = {
    "admix": {"scales": 2, "mixed": 2},
    "apgd": {"steps": 5},
    "apgd_targeted": {"steps": 5, "targets": 2},
    "bandits": {
        "queries": 40,
        "lr": 0.05,
        "probe": 0.1,
        "exploration": 1.0,
        "tiles": 6,
    },
    "boundary": {"queries": 500, "sphere": 0.1, "inward": 0.1},
    "brendel_bethge": {"steps": 20, "decays": 5},
    "cw_l2": {"binary_steps": 2, "steps": 15, "lr": 0.05, "initial_const": 1.0},
    "cw_linf": {"rounds": 3, "steps": 15, "lr": 0.02, "initial_const": 1.0},
    "ddn": {"steps": 20, "init_norm": 0.2},
    "deepfool": {"steps": 4},
    "ead": {"binary_steps": 2, "steps": 15, "lr": 0.05, "initial_const": 1.0},
    "fab": {"steps": 4, "targets": 2},
    "fmn": {"steps": 15},
    "geoda": {"queries": 400, "samples": 20, "share": 1.0},
    "hop_skip_jump": {"queries": 150},
    "jsma": {"gamma": 0.2},
    "multi_targeted": {"targets": 2},
    "nes": {"steps": 4, "samples": 16, "lr": 0.05},
    "one_pixel": {"steps": 3, "population": 20, "pixels": 8},
    "pgd_0": {"steps": 10},
    "pixle": {"queries": 40, "most": 4},
    "rays": {"queries": 150},
    "sigma_zero": {"steps": 30},
    "sim": {"scales": 2},
    "simba": {"queries": 40},
    "sparse_rs": {"queries": 30},
    "sparsefool": {"steps": 15},
    "spsa": {"steps": 4, "samples": 16, "lr": 0.1},
    "square": {"queries": 12},
    "surfree": {"queries": 1000, "memory": 8},
    "tim": {"length": 3},
    "uniform_noise": {"draws": 6},
    "vmim": {"neighbours": 2},
    "vnim": {"neighbours": 2},
    "zoo": {"steps": 8, "binary_steps": 2, "coordinates": 40, "h": 0.01},
}


def small(name, eps):
    """Few steps, also where an attack leaves it to its caller how many."""
    needed = {"steps": 4, "step_size": eps / 3}
    own = registry.parameters(name)
    return {
        option: value
        for option, value in needed.items()
        if option in own and own[option].default is inspect.Parameter.empty
    } | SMALL.get(name, {})


@functools.cache
def needs_key(name):
    """Whether an attack draws at random, unless it is told not to: asks for a key."""
    norm = registry.table()[name].norms[0]
    attack = registry.get(name, eps=0.1, norm=norm, **small(name, 0.1))
    x = jax.ShapeDtypeStruct((2, 3, 3, 1), "float32")
    y = jax.ShapeDtypeStruct((2,), "int32")
    try:
        jax.eval_shape(lambda x, y: attack(lambda x: x.reshape(2, -1), x, y), x, y)
    except ValueError as error:
        if "`key` is missing" not in str(error):
            raise
        return True
    return False
