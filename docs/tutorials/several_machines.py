# %% [markdown]
# # Several machines
#
# The same command uses all devices of a machine, and of several machines, and finds the
# same numbers. This page shows it on one CPU that plays four devices, and then says what to
# type on real ones.

# %%
import jax
import numpy as np

from jaxrobust import attacks, data, parallel

jax.config.update("jax_num_cpu_devices", 4)  # before the first array
print(jax.devices())

# %% [markdown]
# ## One mesh, batches split over it
#
# `parallel.make_mesh()` is all devices of all processes in a row. A batch is split over
# it, weights are copied to each.

# %%
mesh = parallel.make_mesh()
test = data.load("digits", "test")
x, y = test.images.astype(np.float32) / 255, test.labels

train = data.load("digits", "train")
flat = train.images.reshape(len(train), -1) / 255
gram = flat.T @ flat + 10 * np.eye(64)
w = (10 * np.linalg.solve(gram, flat.T @ np.eye(10)[train.labels])).astype(np.float32)


def linear(w, x):
    """Maps images [B, 8, 8, 1] to logits [B, 10]."""
    return x.reshape(len(x), -1) @ w


@jax.jit
def attack(w, x, y, keys):
    """Robust or not, for each image [B]."""
    net = jax.tree_util.Partial(linear, w)
    x_adv = attacks.pgd(net, x, y, key=keys, eps=0.1, step_size=0.02, steps=20)
    return net(x_adv).argmax(-1) == y


# %% [markdown]
# With a key for each image, made from its number, a result does not depend on where the
# image is computed, nor with which others.

# %%
keys = jax.random.split(jax.random.key(0), len(x))
alone = attack(w, x, y, keys)
batch = parallel.put_batch(mesh, (x, y, keys))
spread = attack(parallel.replicate(mesh, w), *batch)
print(spread.sharding)
print(f"robust: {spread.mean():.1%}, verdicts that differ: {(alone != spread).sum()}")

# %% [markdown]
# The programs do all that by themselves: a training step has one gradient of the whole
# batch (BatchNorm's statistics are global), and AutoAttack's queue feeds all devices.
# `evaluation.autoattack(..., mesh=mesh)` does in your own code.
#
# ## Several processes
#
# One process a machine, as a rule; each runs the same command and says who it is. All must
# see the work directory: a network folder, or `gs://` with the extra `gcs`.
#
#     jaxrobust train pgd_cifar10 --workdir gs://bucket/run \
#       --coordinator=HOST:PORT --processes=2 --process=0      # and --process=1 on the other
#
# TPU slices, SLURM and Open MPI are detected; `launch/` has `tpu_vm.sh`, `slurm.sbatch` and
# `kubernetes_jobset.yaml`. To try it on one machine, in a clone of the repository:
#
#     python launch/local_processes.py --processes 2 --devices 2 -- \
#       --config configs/quickstart.py:quick --workdir runs/two
#
# ## When one dies
#
# The others end within two minutes and name it. The same command goes on from the last
# checkpoint, also on another number of processes or devices. SIGTERM saves first.
# [Faults](../faults.md) lists what can go wrong and what you then see;
# [Scaling](../scaling.md) what a config should cost on which machine.
