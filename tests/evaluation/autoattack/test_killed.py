"""AutoAttack in a process of its own, killed at random moments."""

import pathlib
import random
import signal
import subprocess
import sys
import time

import chex
import numpy as np
import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jaxrobust import evaluation
rng = np.random.default_rng(1)
w = rng.normal(size=(108, 12)).astype(np.float32) / 4
v = rng.normal(size=(12, 10)).astype(np.float32)
x = rng.uniform(size=(40, 6, 6, 3)).astype(np.float32)
net = lambda x: jnp.tanh((x.reshape(x.shape[0], -1) - 0.5) @ w) @ v
y = np.asarray(net(x)).argmax(1)
state, out = sys.argv[1] or None, sys.argv[2]
r = evaluation.autoattack(
    net, x, y, key=jax.random.key(0), eps=0.008, slots=8, state_dir=state,
    save_every=0.2,
)
np.savez(out, robust=r.robust, x_adv=r.x_adv)
"""


def start(state, out):
    command = [sys.executable, "-c", PROGRAM, str(state), str(out)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


@pytest.mark.full
def test_killed_with_signal_9_and_continued_is_the_same_to_the_bit(tmp_path):
    whole, continued = tmp_path / "whole.npz", tmp_path / "continued.npz"
    begin = time.monotonic()
    assert start("", whole).wait() == 0
    usual, kills, rng = time.monotonic() - begin, 0, random.Random(0)
    while not continued.exists():
        process = start(tmp_path / "state", continued)
        # Later and later, so that it ends however slow the machine is.
        patience = usual * rng.uniform(0.3, 0.5 + 0.2 * kills)
        try:
            assert process.wait(patience) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            kills += 1
    assert kills >= 2
    one, two = np.load(whole), np.load(continued)
    assert 0 < one["robust"].mean() < 1
    chex.assert_trees_all_equal(one["robust"], two["robust"])
    chex.assert_trees_all_equal(one["x_adv"], two["x_adv"])
