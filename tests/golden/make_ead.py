"""Runs Foolbox's EAD on the golden network and keeps what it finds.

    python tests/golden/make_ead.py

Needs Foolbox (of the test extra). Network, images and labels are those of ta_fgsm.npz,
in float64. Written beside this script: ead.npz, the adversarial images, float32.
"""

import pathlib
import sys

import jax
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from tests.attacks import conftest  # noqa: E402

KEPT = 4


def main() -> None:
    """Writes ead.npz."""
    jax.config.update("jax_enable_x64", True)
    import foolbox

    data = conftest._load("ta_fgsm")
    x = jax.numpy.asarray(conftest._nhwc(data["x"])[:KEPT], "float64")
    y = jax.numpy.asarray(data["y"][:KEPT])
    model = foolbox.JAXModel(conftest._net(data), (0, 1), data_format="channels_last")
    attack = foolbox.attacks.EADAttack(
        binary_search_steps=3,
        steps=12,
        initial_const=0.1,
        decision_rule="L1",
        abort_early=False,
    )
    x_adv = np.asarray(attack.run(model, x, y))
    fooled = np.asarray(model(x_adv)).argmax(1) != y
    print("L1", np.abs(x_adv - x).sum((1, 2, 3)), "fooled", fooled)
    np.savez_compressed(HERE / "ead.npz", x_adv=x_adv.astype(np.float32))


if __name__ == "__main__":
    main()
