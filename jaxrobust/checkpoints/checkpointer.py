"""Checkpoints of a training that goes on: saved by a thread, pruned, resumed from."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from jaxrobust.array_types import PyTree, Variables
from jaxrobust.checkpoints.stored import damage, leave_out_late_reads
from jaxrobust.parallel import checksums, processes
from jaxrobust.runtime import checkpoint_folder, files, reading
from jaxrobust.runtime.checkpoint_folder import BEST, metric, usable


class Checkpointer:
    """Saves, prunes and restores the checkpoints of one work directory.

    The last two checkpoints are kept, and those with the best clean and the best robust
    validation accuracy. They are written by a thread while training goes on; one counts
    from when all of it is there, and only then are older ones deleted.
    """

    def __init__(self, workdir: epath.PathLike) -> None:
        """Opens (and makes) `workdir`/checkpoints."""
        best = [
            policies.BestN(get_metric_fn=metric(name), n=1) for name in BEST.values()
        ]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(2), *best]
            ),
            best_fn=metric("robust_accuracy"),
            enable_async_checkpointing=True,
            # A folder that takes none is an error at once, else after five minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            cleanup_tmp_directories=True,  # of a run that was killed while it saved
        )
        folder = files.own_folder(usable(workdir) / "checkpoints")
        if processes.is_lead():
            checkpoint_folder.put_in_order(folder)
        processes.wait("jaxrobust: the checkpoints are in order")
        self._manager = ocp.CheckpointManager(folder, options=options)
        self._folder = folder
        self._writing: int | None = None

    @property
    def started(self) -> bool:
        """Says whether anything was saved here, whole: buckets show what is not."""
        return bool(self._manager.all_steps())

    def save(
        self,
        step: int,
        state: PyTree,
        variables: Variables,
        config: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        layout: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts to write a checkpoint, once the one before is written.

        State and variables are copied before the call returns, so that the caller may
        donate them to the next step. `metrics` are validation accuracies.

        Raises:
          OSError: if this one cannot be begun, or the one before was not written.
        """
        self.wait()
        self._writing = step
        sums = checksums.of_parts(state=state, variables=variables, config=config)
        with self._told(OSError):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    variables=ocp.args.StandardSave(dict(variables)),
                    config=ocp.args.JsonSave(dict(config)),
                    layout=ocp.args.JsonSave(dict(layout or {})),
                    sums=ocp.args.JsonSave(sums),
                ),
                metrics=dict(metrics or {}),
            )

    def wait(self) -> None:
        """Returns when nothing is being written, or raises OSError if that failed."""
        with self._told(Exception):  # of a thread of orbax's, of many kinds
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, as `wait`, for what is being written and releases the folder."""
        with self._told(Exception):
            self._manager.close()

    @contextlib.contextmanager
    def _told(self, kind: type[Exception]) -> Iterator[None]:
        """Tells an error as that of the checkpoint that is being written."""
        try:
            yield
        except kind as error:
            reason = reading.first_line(error)
            if len(reason) > 200:  # the cause comes after the paths
                reason = f"... {reason[-200:]}"
            raise OSError(
                f"checkpoint {self._writing} could not be written to {self._folder}: "
                f"{reason}. Make room there, or make it writable; the same command "
                "goes on from the checkpoint before."
            ) from error

    def restore(self, like: PyTree) -> PyTree | None:
        """Returns the newest readable state, or None where nothing was saved.

        Checkpoints that cannot be read (cut short by a crash or a full disk) are passed
        over with a warning, and deleted once an older one has been read. `like` is a
        state with the expected tree, shapes, dtypes and shardings. Another architecture
        is a ValueError, and so is none that can be read; nothing is deleted then.
        """
        self.wait()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        damaged: list[int] = []
        leave_out_late_reads()
        for step in sorted(self._manager.all_steps(), reverse=True):
            state, reason = None, ""
            try:
                state = self._manager.restore(step, args=args)["state"]
            except Exception as error:  # orbax raises many kinds for a damaged folder
                if self._is_other_architecture(step, like):
                    raise ValueError(
                        f"checkpoint {step} in {self._folder} holds another "
                        "architecture or optimiser than this config; use another "
                        "--workdir."
                    ) from None
                reason = reading.first_line(error)
            if processes.all_true(state is not None):
                reason = damage(self._folder / str(step), state=state)
                if processes.all_true(not reason):
                    for other in damaged:  # their steps will be saved again
                        self._manager.delete(other)
                    return state
            logging.warning(
                "checkpoint %d cannot be read (%s); falling back to the one before",
                step,
                reason[:200] or "by another process",
            )
            damaged.append(step)
        if damaged:
            raise ValueError(
                f"no checkpoint in {self._folder} can be read (tried {damaged}); "
                "repair them, or use another --workdir to start over."
            )
        return None

    def _is_other_architecture(self, step: int, like: PyTree) -> bool:
        """Says whether the checkpoint describes itself as another tree."""
        try:
            folder = self._folder / str(step) / "state"
            found = ocp.StandardCheckpointHandler().metadata(folder).tree
        except Exception:
            return False
        return _shapes(found) != _shapes(like)

    def part(self, step: int, name: str) -> dict[str, Any]:
        """Returns `config` or `layout` of a checkpoint; empty if it is unknown."""
        return checkpoint_folder.read_part(self._folder / str(step), name)


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True): x.shape for path, x in leaves}
