"""The loss over a plane, against the closed form of a linear network."""

import numpy as np
import pytest

from jaxrobust import evaluation
from jaxrobust.evaluation import setting
from jaxrobust.evaluation.analyses import loss_surface
from jaxrobust.report import figures
from jaxrobust.report.figures import loss_surface as loss_figure
from jaxrobust.report.source import RunFiles
from jaxrobust.results import Results, npz, read

FIELDS = dict(loss_surface.DEFAULTS) | {"enabled": True, "points": 5, "reach": 1.0}


@pytest.fixture
def surface(linear, tmp_path):
    config = linear.make_config(loss_surface=FIELDS, grid=0)
    given = (linear.model, linear.variables, config, tmp_path)
    found = read(Results, evaluation.evaluate(*given, dataset=linear.dataset))
    with np.load(tmp_path / "evaluation.npz") as arrays:
        return found, dict(arrays)


def test_planes_of_a_linear_network_are_planes(linear, surface):
    found, arrays = surface
    assert (found.loss_surface.attack, found.loss_surface.eps_text) == ("fgsm", "0.1")
    held = npz.LossSurfaceArrays.of(arrays)
    part = setting.picked(len(linear.dataset.labels), 3)
    np.testing.assert_array_equal(held.surface_labels, linear.dataset.labels[part])
    np.testing.assert_allclose(held.surface_at, [-1, -0.5, 0, 0.5, 1])
    # Logits are (0, score), so the margin loss is minus the margin; along FGSM it
    # rises by eps ||w||_1, along signs by less, and linearly in both.
    slope = 0.1 * np.abs(linear.variables["params"]["w"]).sum()
    middle = -linear.margin[part, None, None]
    rise = held.surface_margin - middle
    np.testing.assert_allclose(
        rise[:, :, 2], slope * held.surface_at * np.ones((3, 1)), atol=1e-5
    )
    across = rise[:, 2, 4]
    assert (np.abs(across) < slope).all()
    both = slope * held.surface_at[:, None] + across[:, None, None] * held.surface_at
    np.testing.assert_allclose(rise, both, atol=1e-5)
    np.testing.assert_allclose(
        held.surface_loss, np.logaddexp(0, held.surface_margin), atol=1e-5
    )


def test_the_page_shows_it_with_the_boundary(surface):
    found, arrays = surface
    cards = loss_figure.figure(found, arrays, None)
    assert len(cards) == 3
    assert all("Loss surface" in card and "var(--clean)" in card for card in cards)
    crossed = [np.ptp(np.sign(m)) > 0 for m in arrays["surface_margin"]]
    assert ["Beyond the line" in card for card in cards] == crossed
    arrays["surface_loss"][0, 0, 0] = np.nan
    source = RunFiles(results=found, arrays=arrays)
    page = "".join(figures.at(figures.Place.ANALYSES, source))
    assert page.count("up along random signs") == 2


@pytest.mark.parametrize(
    ("field", "value"), [("points", 4), ("points", 103), ("reach", 0), ("examples", 0)]
)
def test_mistakes_are_named(field, value):
    with pytest.raises(ValueError, match=rf"loss_surface\.{field}` .*{value}"):
        loss_surface.check(FIELDS | {field: value})
