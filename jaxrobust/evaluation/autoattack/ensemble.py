"""AutoAttack: the stages one after the other, each on what is still robust."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float, Int

from jaxrobust import models, parallel
from jaxrobust.array_types import Bounds, Images, Key, Labels, LogitsFn, Norm
from jaxrobust.attacks import autoattack_versions as versions
from jaxrobust.attacks import stepping
from jaxrobust.evaluation import step, verify
from jaxrobust.evaluation.autoattack import flags, stage
from jaxrobust.evaluation.autoattack.ahead import Ahead
from jaxrobust.evaluation.autoattack.queue import Queue
from jaxrobust.evaluation.autoattack.result import Result, StageResult, State
from jaxrobust.evaluation.autoattack.saved_state import StateFile
from jaxrobust.evaluation.autoattack.setup import (
    Examples,
    Setup,
    as_images,
    check_call,
    slots_for,
)
from jaxrobust.evaluation.network import CompiledNetwork
from jaxrobust.evaluation.setting import Devices
from jaxrobust.runtime.progress import StageProgress

_DRAWS = 20


def autoattack(
    logits_fn: LogitsFn,
    x: Images | Float[np.ndarray, "N ..."],
    y: Labels | Int[np.ndarray, "N"],
    *,
    key: Key,
    eps: float,
    norm: Norm = "linf",
    version: str = "standard",
    slots: int | None = None,
    state_dir: epath.PathLike | None = None,
    state_tag: str | None = None,
    progress: bool | step.ProgressSink = True,
    bounds: Bounds = (0.0, 1.0),
    stochastic: bool = False,
    draws: int | None = None,
    mesh: Mesh | None = None,
    precision: str = "highest",
    save_every: float = 10.0,
) -> Result:
    """AutoAttack (Croce and Hein 2020): an ensemble without anything to choose.

    Verdicts are those of the reference with its published settings. Every image goes
    through the attacks until one changes its class, and leaves at once. A fixed number
    of slots is refilled from a queue of images and targets, so each attack is one
    compiled shape; an image's result depends on its key alone, not on slots or devices.
    Every adversarial image is checked again: ball and bounds in float64, finite
    logits, another class in another batch shape.

    Args:
      logits_fn: `x -> logits [B, K]`, pure; `(x, keys [B]) -> logits` if stochastic.
      x: N images `[N, H, W, C]`, floating, inside `bounds`; they stay on the host.
        Vectors `[N, D]`, sequences and volumes too: Square then changes squares of a
        rectangle that their values fill in reading order.
      y: labels `[N]`.
      key: one key (image i uses fold_in(key, i)) or one per image.
      eps: radius of the ball, positive, in units of the images.
      norm: 'linf', 'l2' or 'l1'.
      version: 'standard' (APGD on cross-entropy, targeted APGD, targeted FAB, Square),
        'plus' (six attacks, five restarts), 'rand' (APGD on cross-entropy and DLR
        over 20 draws, for randomised models) or 'strong' (ours: after 'standard' APGD
        towards the classes of the nearest boundaries, and on margin and DLR loss).
      slots: rows attacked at a time, at least two per device. So many in every attack:
        networks of one shape then share four compiled programs. None chooses for each
        attack by what is left, which runs fewer rows and compiles more.
      state_dir: folder for a file from which a killed evaluation goes on, in the middle
        of an attack. A finished one returns at once. The file belongs to this model,
        these images, keys and settings.
      state_tag: your name for the model, a part of the file's name. Needed with
        `state_dir` where the model calls the host (`jax.pure_callback`, `io_callback`,
        FFI): its program does not tell it from another one, so you do.
      progress: show a display, with the robust accuracy so far and the time left; or
        where to report to.
      bounds: lowest and highest value of an image.
      stochastic: the model draws randomness from the keys it is given. Then an image
        counts as robust if it is right in half of `draws` fresh draws at least, and
        the robust accuracy is the expected one, each image at the worst point found.
      draws: fresh draws per image that judge a stochastic model; 20 unless given.
      mesh: devices to use; all of this process unless given.
      precision: of matrix products, in JAX's names. 'fast' lets the attacks see the
        model in bfloat16, where `models.logits_fn` made it of a network that can, and
        with matrix products as the backend likes them; what they find has to fool the
        model as it is, at the highest. For GPUs and TPUs.
      save_every: seconds between two writes of the state, more where it is so large
        that they would take a twentieth of the time.

    Raises:
      ValueError, TypeError: naming the argument; for logits that are not finite, a
        state of another model, or one that cannot be told from others (`state_tag`).

    Reference:
      Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of
      diverse parameter-free attacks, ICML 2020, arXiv 2003.01690.
    """
    ball = verify.Ball(eps, norm, bounds)
    check_call(logits_fn, x, y, ball, version=version, draws=draws, tag=state_tag)
    if mesh is None and (count := jax.local_device_count()) > 1:
        mesh = parallel.make_mesh(count)
    devices, shape = Devices(mesh), np.shape(x)
    given = logits_fn
    logits_fn, images = as_images(given, np.asarray(x))
    keys = stepping.row_keys(key, len(images))
    most = slots_for(slots, devices.count, len(images))
    # For the second look, a batch of another size that the devices can share.
    other = max(devices.count, most // (2 * devices.count) * devices.count)
    seen, fast = logits_fn, precision == step.FAST
    if fast:
        seen, _ = as_images(models.in_bfloat16(given), np.asarray(x))
    with jax.default_matmul_precision(step.exact(precision)):
        forward, second_look = (
            CompiledNetwork(logits_fn, images[0], batch, devices, stochastic=stochastic)
            for batch in (most, other)
        )
        classes = forward.model.out.shape[1]
        stepping.check_classes(y, classes)
        setup = Setup(
            logits_fn,
            Examples(images, np.asarray(y, np.int32), keys),
            dataclasses.replace(ball, eps=float(eps)),
            plan=versions.plan(version, norm, classes, stochastic=stochastic),
            version=version,
            stochastic=stochastic,
            draws=(draws or _DRAWS) if stochastic else 1,
            slots=most,
            balanced=slots is None,
            devices=devices,
            second_look=second_look,
            attacked=seen,
            tag=state_tag,
        )
        clean = forward(images, keys)
        step.check_finite(clean)
        if progress is True:
            progress = StageProgress(unit="step")
        display = None if progress is False else progress
        file = StateFile(setup, state_dir, save_every)
        state, middle = file.load(clean) or (_begin(setup, clean), None)
        of_attacks = jax.default_matmul_precision("default" if fast else precision)
        with Ahead(setup, clean) as ahead, of_attacks:
            for attack in setup.plan.stages[len(state.stages) :]:
                outside = file, ahead, display
                state = _run_stage(setup, attack, state, middle, *outside)
                middle = None
                file.save(state)
        if display is not None:
            display.close()
        result = _result(setup, state)
        return dataclasses.replace(result, x_adv=result.x_adv.reshape(shape))


def _begin(setup: Setup, clean: np.ndarray) -> State:
    """Looks at the clean images."""
    x, y, _ = setup.examples
    if setup.stochastic:
        share = setup.correct_share(np.arange(len(x)), x)
    else:
        share = 1.0 * (clean.argmax(-1) == y)
    return State(
        logits=clean,
        clean=share >= step.HALF,
        stages=(),
        x_adv=x.copy(),
        correct_share=share,
        zero_gradient=np.ones(len(x), bool),
        not_finite=np.zeros(len(x), bool),
        rejected=np.zeros(len(x), np.int64),
        numbers=flags.numbers_of(setup, clean),
    )


def _run_stage(
    setup: Setup,
    attack: versions.Stage,
    state: State,
    middle: Any,
    file: StateFile,
    ahead: Ahead,
    display: step.ProgressSink | None,
) -> State:
    """Returns the state after a stage, begun anew or in its middle."""
    begin = time.monotonic()
    if middle is None and not len(state.left):
        skipped = StageResult(attack.name, state.robust, 0.0, versions.Calls())
        return state._replace(stages=(*state.stages, skipped))
    if middle:
        program, now = file.resumed(attack, state.logits, *middle)
    else:
        ahead.wait(attack)
        runs = attack.method.runs()
        queue = Queue.new(state.left, runs, setup.slots_of(len(state.left) * runs))
        program, now = stage.compiled(setup, attack, state.logits, queue)
    images = now.queue.images

    def after(now: stage.StageState) -> None:
        file.save_if_due(state, now)
        ahead.look(attack, now)
        if display is not None:
            hits = len(now.found.x_adv) * (not setup.stochastic)
            values = {"robust": (len(state.left) - hits) / len(state.clean)}
            display.update(*now.done(attack), attack.name, values)

    found = stage.run(program, now.spent(time.monotonic() - begin), after)
    return _after(setup, attack, state, images, found)


def _after(
    setup: Setup,
    attack: versions.Stage,
    state: State,
    images: Int[np.ndarray, "n"],
    found: stage.StageFindings,
) -> State:
    """Returns the state with what a stage has found on these images."""
    begin, everyone = time.monotonic(), np.arange(len(state.clean))
    x_adv, share = _worst_points(setup, state, found)
    zero = state.zero_gradient
    if not isinstance(attack.method, stepping.Square):
        seen = np.isin(everyone, images)
        zero = zero & (~seen | np.isin(everyone, list(found.zero_gradient)))
    rejected = [found.rejected.get(number, 0) for number in everyone.tolist()]
    seconds = found.seconds + time.monotonic() - begin
    done = StageResult(attack.name, share >= step.HALF, seconds, found.calls)
    return state._replace(
        stages=(*state.stages, done),
        x_adv=x_adv,
        correct_share=share,
        zero_gradient=zero,
        not_finite=state.not_finite | np.isin(everyone, list(found.not_finite)),
        rejected=state.rejected + np.asarray(rejected, np.int64),
    )


def _worst_points(
    setup: Setup, state: State, found: stage.StageFindings
) -> tuple[Float[np.ndarray, "N H W C"], Float[np.ndarray, "N"]]:
    """Returns the worst points now, and the shares of draws that are right there.

    What a stage has found of a deterministic model fools it; of a randomised one it is
    judged here, and takes the place of better points.
    """
    x_adv, share = state.x_adv.copy(), state.correct_share.copy()
    for run in range(max(map(len, found.x_adv.values()), default=0)):
        having = sorted(n for n, points in found.x_adv.items() if run < len(points))
        some = np.asarray(having, np.int64)
        points = np.stack([found.x_adv[number][run] for number in having])
        if not setup.stochastic:
            x_adv[some], share[some] = points, 0
            continue
        outside = verify.measure(points, setup.examples.x[some], setup.ball)[1]
        right = setup.correct_share(some, points)
        worse = ~outside & (right < share[some])
        x_adv[some[worse]], share[some[worse]] = points[worse], right[worse]
    return x_adv, share


def _result(setup: Setup, state: State) -> Result:
    return Result(
        robust=state.robust,
        x_adv=state.x_adv,
        clean=state.clean,
        stages=list(state.stages),
        flags=flags.raised(setup, state),
        replaced=setup.plan.replaced,
        version=setup.version,
        norm=setup.ball.norm,
        eps=setup.eps,
        correct_share=state.correct_share,
        draws=setup.draws,
    )
