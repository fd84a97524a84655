"""One mesh over all devices of all processes, and what processes owe each other."""

from jaxrobust.parallel import processes as processes
from jaxrobust.parallel import watch as watch
from jaxrobust.parallel.mesh import by_batch as by_batch
from jaxrobust.parallel.mesh import from_rows as from_rows
from jaxrobust.parallel.mesh import make_mesh as make_mesh
from jaxrobust.parallel.mesh import own_rows as own_rows
from jaxrobust.parallel.mesh import put_batch as put_batch
from jaxrobust.parallel.mesh import replicate as replicate
from jaxrobust.parallel.mesh import replicated as replicated
from jaxrobust.parallel.mesh import rows_to_host as rows_to_host
from jaxrobust.parallel.mesh import to_host as to_host
