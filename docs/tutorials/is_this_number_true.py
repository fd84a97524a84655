# %% [markdown]
# # Is this number true?
#
# Most defences that were published as robust were not: their attacks failed for reasons
# that have nothing to do with robustness. This page builds such a defence, believes it for
# a moment, and then asks properly.

# %%
import warnings

import jax
import jax.numpy as jnp
from sklearn.neural_network import MLPClassifier

from jaxrobust import attacks, data, evaluation

train, test = data.load("digits", "train"), data.load("digits", "test").take(range(60))
trained = MLPClassifier((64,), learning_rate_init=0.01, random_state=0)
trained.fit(train.images.reshape(len(train), -1) / 255, train.labels)
x, y = jnp.asarray(test.images, jnp.float32) / 255, jnp.asarray(test.labels)
key = jax.random.key(0)


def plain(x):
    """Maps images [B, 8, 8, 1] to logits [B, 10]."""
    w, b = trained.coefs_, trained.intercepts_
    return jax.nn.relu(x.reshape(len(x), -1) @ w[0] + b[0]) @ w[1] + b[1]


# %% [markdown]
# ## A defence that works too well
#
# The "defence" multiplies the logits by a thousand. Every prediction stays what it was, so
# it cannot have made anything more robust.


# %%
def defended(x):
    """The same predictions, with much confidence."""
    return 1000 * plain(x)


def robust_accuracy(logits_fn, **options):
    """Accuracy under PGD with 20 steps at eps .1, and what the attack warns of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        x_adv = attacks.pgd(
            logits_fn, x, y, key=key, eps=0.1, step_size=0.02, steps=20, **options
        )
    for warning in told:
        print("warning:", warning.message)
    return float((logits_fn(x_adv).argmax(-1) == y).mean())


print(f"plain: {robust_accuracy(plain):.1%}")
print(f"defended: {robust_accuracy(defended):.1%}")

# %% [markdown]
# The softmax has saturated: the cross-entropy is exactly 0, and so is its gradient. The
# attack stood still, and said so. A loss that does not saturate moves again:

# %%
print(f"defended, margin loss: {robust_accuracy(defended, loss='margin'):.1%}")

# %% [markdown]
# ## Ask for signs
#
# `evaluation.diagnose` looks for what makes attacks blind: it compares gradients with finite
# differences, one step with many, black boxes with gradients, logits with scaled logits.

# %%
_, flags = evaluation.diagnose(
    defended, x[:30], y[:30], key=key, eps=0.1, steps=5, restarts=0, queries=0
)
for flag in flags:
    print("SEVERE" if flag["severe"] else "minor", flag["name"], "-", flag["message"])

# %% [markdown]
# ## AutoAttack: the number that others report
#
# Four attacks with nothing to choose, with and without gradients; an image is robust if it
# stands all of them. The verdicts are those of the reference implementation.

# %%
r = evaluation.autoattack(defended, x, y, key=key, eps=0.1, progress=False)
low, high = r.ci95
print(f"clean {r.clean_accuracy:.1%}")
print(f"robust {r.robust_accuracy:.1%}, 95 % interval {low:.1%} to {high:.1%}")
for stage in r.stages:
    print(f"  after {stage.name:8} {stage.robust.mean():.1%}")
print("flags:", [flag["name"] for flag in r.flags])

# %% [markdown]
# The first attack is as blind as ours was; the second, whose loss does not depend on the
# scale of the logits, sees through it, and the number is that of the plain network. Read
# such a result in this order:
#
# 1. **The flags.** A severe one means: do not believe the robust accuracy, look for a
#    better attack. No flag means that the checks which ran found nothing; it proves nothing.
# 2. **The interval.** 60 images say little: that is how wide it is. Two networks whose
#    intervals overlap may still differ; compare them on the same images
#    (`jaxrobust compare RUN_A RUN_B`).
# 3. **The stages.** If Square, which sees no gradients, still fools images that the
#    gradient attacks could not, the gradients are masked.
#
# ## What AutoAttack cannot see
#
# It attacks the function it is given. A defence with a part that hides gradients (rounding,
# randomness, an optimisation inside) needs an attack made for it: the suite `adaptive` has
# one for each method here, and [Evaluation](../evaluation.md#diagnostics) lists every sign
# that is looked for and what to do about it. `evaluation.diagnose` gives the signs alone;
# `jaxrobust evaluate` runs all of it on your function and writes a page:
#
#     jaxrobust evaluate --model 'mine:logits' --data digits --eps 0.1 --suite autoattack
