"""What to do when the devices run out of memory."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def explained(
    flag: str, batch_size: int, devices: int, otherwise: str = ""
) -> Iterator[None]:
    """Tells an out-of-memory error of the devices as a MemoryError with what to try.

    `flag` sets the batch size of the work inside, as in `--config.eval.batch_size`; a
    multiple of the `devices` that share a batch is suggested. `otherwise` says what
    else would help, the end of a sentence.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        half = batch_size // 2 // devices * devices
        ways = [f"{flag}={half}"] if half else []
        ways += [otherwise] if otherwise else []
        ways = ways or ["a smaller network or more devices"]
        raise MemoryError(
            f"the devices have too little memory for {flag}={batch_size}; try "
            f"{', or '.join(ways)}. Checkpoints are kept (--traceback shows the sizes)."
        ) from error
