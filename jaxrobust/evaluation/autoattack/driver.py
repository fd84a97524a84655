"""AutoAttack: the stages one after the other, each on what is still robust."""

import contextlib
import time
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float, Int

from jaxrobust.array_types import Bounds, Images, Key, Labels, LogitsFn, Norm
from jaxrobust.attacks import stepping
from jaxrobust.evaluation import step, verify
from jaxrobust.evaluation.autoattack import gradients, judge, signs, state, versions
from jaxrobust.evaluation.autoattack.board import Board, balanced
from jaxrobust.evaluation.autoattack.forward import Forward, Place
from jaxrobust.evaluation.autoattack.keeper import Keeper
from jaxrobust.evaluation.autoattack.result import Result, StageResult
from jaxrobust.evaluation.autoattack.runner import Images as Held
from jaxrobust.evaluation.autoattack.runner import Outcome, Runner
from jaxrobust.evaluation.autoattack.settings import (
    Settings,
    Standing,
    check_call,
    check_tag,
    clean_logits,
    local_mesh,
    other_shape,
    slots_for,
)
from jaxrobust.runtime.progress import StageProgress

_DRAWS = 20


def autoattack(
    logits_fn: LogitsFn,
    x: Images | Float[np.ndarray, "N H W C"],
    y: Labels | Int[np.ndarray, "N"],
    *,
    key: Key,
    eps: float,
    norm: Norm = "linf",
    version: str = "standard",
    slots: int | None = None,
    state_dir: epath.PathLike | None = None,
    state_tag: str | None = None,
    progress: bool | step.Progress = True,
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
      y: labels `[N]`.
      key: one key (image i uses fold_in(key, i)) or one per image.
      eps: radius of the ball, positive, in units of the images.
      norm: 'linf', 'l2' or 'l1'.
      version: 'standard' (APGD on cross-entropy, targeted APGD, targeted FAB, Square),
        'plus' (six attacks, five restarts) or 'rand' (APGD on cross-entropy and DLR
        over 20 draws, for randomised models).
      slots: images attacked at a time, at most; at least two per device. None chooses.
        A stage with few images uses fewer.
      state_dir: folder for a file from which a killed evaluation goes on, in the middle
        of an attack; None keeps nothing. A finished one returns at once. The file
        belongs to this model, these images, keys and settings.
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
      precision: of matrix products.
      save_every: seconds between two writes of the state, more where it is so large
        that they would take a twentieth of the time.

    Returns:
      A `Result`: flags, adversarial images, stages, warnings.

    Raises:
      ValueError: for images outside `bounds`, labels out of range, logits that are
        not finite, fewer than two classes, a state of another model, a model that
        calls the host with `state_dir` and no `state_tag`; named in the message.
      TypeError: for arrays or keys of the wrong type.

    Reference:
      Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of
      diverse parameter-free attacks, ICML 2020, arXiv 2003.01690.
    """
    check_call(logits_fn, x, y, eps, norm, version, bounds, draws)
    check_tag(state_tag)
    place = Place(local_mesh() if mesh is None else mesh)
    images = np.asarray(x)
    keys = stepping.row_keys(key, len(images))
    most = slots_for(slots, place.devices, len(images))
    with jax.default_matmul_precision(precision):
        forward, check = (
            Forward(logits_fn, images[0], batch, place, stochastic=stochastic)
            for batch in (most, other_shape(most, place.devices))
        )
        stepping.check_classes(y, forward.classes)
        labels = np.asarray(y, np.int32)
        settings = Settings(
            logits_fn,
            Held(images, labels, keys, clean_logits(forward, images, keys)),
            verify.Ball(eps, norm, bounds),
            float(eps),
            versions.plan(version, norm, forward.classes, stochastic=stochastic),
            version,
            stochastic,
            (draws or _DRAWS) if stochastic else 1,
            most,
            place,
            check,
            state_tag,
        )
        display = _display(progress)
        found = _run(settings, Keeper(settings, state_dir, save_every), display)
        if display is not None:
            display.close()
    return _result(settings, found)


def _display(progress: bool | step.Progress) -> step.Progress | None:
    if isinstance(progress, bool):
        return StageProgress(unit="step") if progress else None
    return progress


def _begin(settings: Settings) -> Standing:
    """Looks at the clean images."""
    held, check = settings.held, settings.check
    flagged = signs.of_outputs(
        held.clean, held.x, held.keys, check, stochastic=settings.stochastic
    )
    flagged |= gradients.look(settings)
    if settings.stochastic:
        share = judge.correct_share(check, held.x, held.y, held.keys, settings.draws)
    else:
        share = 1.0 - judge.is_wrong(held.clean, held.y)
    stuck, rejected = np.ones(len(share), bool), np.zeros(len(share), np.int64)
    return Standing(share, held.x.copy(), [share >= 0.5], [], flagged, stuck, rejected)


def _run(
    settings: Settings, keeper: "Keeper", display: step.Progress | None
) -> Standing:
    """Runs, or goes on with, all stages."""
    found, middle = keeper.load() or (_begin(settings), None)
    for number in range(len(found.stages), len(settings.plan.stages)):
        begin = time.monotonic()
        with keeper.reading() if middle else contextlib.nullcontext():
            runner = _runner(settings, found, number, middle)
        outcome = Outcome()
        if runner is not None:
            middle = None
            stage, setup = settings.plan.stages[number], time.monotonic() - begin
            runner.outcome.seconds += setup

            def after(runner: Runner, name: str = stage.name) -> None:
                keeper.maybe_save(found, runner)
                if display is not None:
                    hits = len(runner.outcome.x_adv) * (not settings.stochastic)
                    share = (len(found.left) - hits) / len(found.share)
                    display.update(*runner.progress(), name, {"robust": share})

            outcome = runner.run(after)
            begin = time.monotonic()
            _judge(settings, found, outcome)
            _note(found, runner)
            outcome.seconds += time.monotonic() - begin
        found.stages.append((outcome.seconds, outcome.calls))
        found.robust.append(found.share >= 0.5)
        keeper.save(found, None)
    return found


def _runner(
    settings: Settings, found: Standing, number: int, middle: Any
) -> Runner | None:
    """Makes the runner of a stage, where it was left; None if nothing is robust."""
    stage = settings.plan.stages[number]
    board, whole = None, False
    if middle is not None:
        meta, arrays = middle
        board = Board.from_arrays(state.part(arrays, "board"))
        whole = (meta["devices"], meta["most"]) == (
            settings.place.devices,
            settings.most,
        )
    elif not len(found.left):
        return None
    runs = stage.method.runs()
    images = found.left if board is None else board.images
    slots = balanced(len(images) * runs, settings.most, 2 * settings.place.devices)
    if board is None:
        board = Board.new(images, runs, slots)
    elif not whole:
        board = board.restart(slots)
    runner = Runner(
        settings.logits_fn,
        stage,
        settings.held,
        board,
        eps=settings.eps,
        fields=versions.fields_of(stage, settings.fields),
        place=settings.place,
        confirm=settings.confirm,
    )
    if middle is not None:
        runner.restore(*middle, whole=whole)
    return runner


def _judge(settings: Settings, found: Standing, outcome: Outcome) -> None:
    """Takes over what a stage has found; of a randomised model, judged anew."""
    held, ball, check = settings.held, settings.ball, settings.check
    numbers = np.asarray(sorted(outcome.x_adv), np.int64)
    if not len(numbers):
        return
    if not settings.stochastic:
        found.x_adv[numbers] = np.stack([outcome.x_adv[n] for n in numbers])
        found.share[numbers] = 0
        return
    for run in range(max(len(points) for points in outcome.x_adv.values())):
        some = np.asarray([n for n in numbers if run < len(outcome.x_adv[n])], np.int64)
        x_adv = np.stack([outcome.x_adv[n][run] for n in some])
        inside = ~verify.measure(x_adv, held.x[some], ball)[1]
        share = judge.correct_share(
            check, x_adv, held.y[some], held.keys[some], settings.draws
        )
        worse = inside & (share < found.share[some])
        found.x_adv[some[worse]] = x_adv[worse]
        found.share[some[worse]] = share[worse]


def _note(found: Standing, runner: Runner) -> None:
    """Keeps what a stage says about its own numbers."""
    outcome, images = runner.outcome, runner.board.images
    for number, count in outcome.rejected.items():
        found.rejected[number] += count
    if not isinstance(runner.stage.method, stepping.Square):
        found.stuck[images] &= np.isin(images, sorted(outcome.stuck))


def _result(settings: Settings, found: Standing) -> Result:
    stages = [
        StageResult(stage.name, robust, seconds, calls)
        for stage, robust, (seconds, calls) in zip(
            settings.plan.stages, found.robust[1:], found.stages, strict=True
        )
    ]
    raised = signs.flags(
        found,
        stages,
        settings.version,
        stochastic=settings.stochastic,
    )
    return Result(
        robust=found.robust[-1],
        x_adv=found.x_adv,
        clean=found.robust[0],
        stages=stages,
        flags=gradients.judged(found.flagged, raised, len(found.robust[0])),
        replaced=settings.plan.replaced,
        version=settings.version,
        norm=settings.ball.norm,
        eps=settings.eps,
        correct_share=found.share,
        draws=settings.draws,
    )
