"""A flat map of features, drawn by the report from evaluation.npz."""

import numpy as np
from jaxtyping import Float, Int

FEWEST = 30
MOST = 500  # a map of more takes minutes and shows no more
WIDTH = 50


def embed(
    pairs: Float[np.ndarray, "N 2 D"], labels: Int[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "M 2 2"], Int[np.ndarray, "M"]] | None:
    """Places clean and attacked features on one map by t-SNE, the same at each call.

    Args:
      pairs: features of N clean (first) and attacked images.
      labels: their true classes.

    Returns:
      Places of M clean and attacked images and their labels; at most 500 of the images,
      always the same ones. None where there is nothing to map: under 30 images, or
      features that are all the same.

    Reference:
      van der Maaten and Hinton, Visualizing data using t-SNE, JMLR 9, 2008; fewer
      dimensions by PCA first, as in its section 4.
    """
    # Slow to import, and most reports are written without it.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows = np.flatnonzero(np.isfinite(pairs).all((1, 2)))
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST])
    features = np.asarray(pairs[rows], np.float64)
    points = features.reshape(2 * len(rows), -1)
    if len(rows) < FEWEST or points.shape[1] < 2 or np.ptp(points) == 0:
        return None
    points = (points - points.mean(0)) / points.std()
    # One thread: so few points gain nothing from more, which on a busy machine wait for
    # each other ten times as long.
    with threadpool_limits(1):
        if points.shape[1] > WIDTH:
            reduce = PCA(min(WIDTH, *points.shape), svd_solver="full")
            points = reduce.fit_transform(points)
        perplexity = min(30.0, (len(points) - 1) / 3)
        map_ = TSNE(perplexity=perplexity, init="random", random_state=0)
        places = map_.fit_transform(points)
    return places.reshape(len(rows), 2, 2), labels[rows]
