"""Runs Foolbox's Brendel & Bethge attacks on digits and keeps how far they end.

    python tests/golden/make_brendel_bethge.py

Needs Foolbox (of the test extra). Without numba its solvers run as plain Python: in
some minutes, to the same results. Written beside this script: brendel_bethge.npz, the
test images of digits that were attacked, their labels, the noise that the attacks
start from, and the distances per norm.
"""

import pathlib
import time
import types

import jax
import numpy as np

from jaxrobust import data, models, threat, zoo

HERE = pathlib.Path(__file__).resolve().parent
NETWORK, KEPT = "digits_lenet5_pgd", 8
STEPS, LR = 100, 1e-2
NAMES = {"l2": "L2", "linf": "Linfinity", "l1": "L1", "l0": "L0"}


def main() -> None:
    """Writes brendel_bethge.npz."""
    import foolbox
    from foolbox.attacks import brendel_bethge as theirs

    plain = theirs.NUMBA_IMPORT_ERROR is not None
    if plain:
        theirs.NUMBA_IMPORT_ERROR = None
        theirs.numba = types.SimpleNamespace(__version__="none")  # pyright: ignore
        theirs.L2Optimizer._ctor = types.SimpleNamespace(signatures=[1])  # pyright: ignore
    model, variables, _ = zoo.load(NETWORK)
    logits_fn = models.logits_fn(model, variables)
    test = data.load("digits", "test", image_size=16)
    x, y = np.asarray(test.images, np.float32) / 255, np.asarray(test.labels)
    right = np.flatnonzero(np.asarray(logits_fn(x)).argmax(1) == y)[:KEPT]
    x, y = x[right], y[right]
    noise = np.random.default_rng(0).random((1000, *x.shape[1:]), np.float32)
    said = np.asarray(logits_fn(noise)).argmax(1)
    start = np.stack([noise[np.flatnonzero(said != label)[0]] for label in y])
    found = {"x": x, "y": y, "start": start}
    *given, begin = map(jax.numpy.asarray, (x, y, start))
    net = foolbox.JAXModel(jax.jit(logits_fn), (0, 1), data_format="channels_last")
    for norm, name in NAMES.items():
        attack = getattr(foolbox.attacks, f"{name}BrendelBethgeAttack")
        # It multiplies the radius by the number of images.
        attack = attack(steps=STEPS, lr=LR / len(x))
        began = time.process_time()
        x_adv = np.asarray(attack.run(net, *given, starting_points=begin))
        fooled = np.asarray(net(x_adv)).argmax(1) != y
        far = np.asarray(threat.distance(x_adv, x, norm=norm))
        if norm == "l0":  # as it counts
            far = (np.abs(x_adv - x) > 1e-4).sum((1, 2, 3))
        far = np.where(fooled, far, np.inf).astype(np.float32)
        seconds = time.process_time() - began
        print(norm, far, f"median {np.median(far):.4g}, {seconds:.0f} s", flush=True)
        found[norm] = far
    np.savez_compressed(HERE / "brendel_bethge.npz", **found)


if __name__ == "__main__":
    main()
