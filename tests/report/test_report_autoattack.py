"""What the report says where AutoAttack ran: headline, stages, and no caveat."""

import json
import re

import numpy as np
import pytest

from jaxrobust import report
from jaxrobust.report import verdict
from jaxrobust.results import Results, read
from tests.report import pages


def write(folder, results):
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    return pages.read(folder)


def cells(text, first):
    """The cells of the row that begins with `first`, in the section of the attacks."""
    for row in re.findall(r"<tr.*?</tr>", text.partition("<h2>Attacks</h2>")[2]):
        found = re.findall(r"<td[^>]*>(.*?)</td>", row)
        if found and found[0] == first:
            return found
    raise AssertionError(f"no row {first!r}")


def numbers(text):
    """What stands on the cards of the headline, and the number there."""
    return re.findall(r'<div class="number[^>]*>([^<]+)<b>([^<]+)</b>', text)


@pytest.fixture
def results(make_results, make_autoattack):
    """AutoAttack alone, 95 % clean and 40 % after it."""
    return make_results(0.4) | {"attacks": [make_autoattack()], "suite": "autoattack"}


def test_its_number_is_the_headline(tmp_path, results):
    text = write(tmp_path, results)
    robust = ("robust accuracy, AutoAttack, L∞, eps 8/255", "40.0 %")
    assert numbers(text) == [("clean accuracy", "95.0 %"), robust]
    assert "stay so whatever AutoAttack does to them (L∞, eps 8/255)." in text
    assert "upper bound" not in text
    assert 'class="note"' not in text
    assert "Suite autoattack." in text
    row = ["autoattack", "40.0 %", "[38.0, 42.0]", "L∞ 8/255, standard version"]
    assert cells(text, "autoattack")[:4] == row


def test_a_lower_worst_case_stands_beside(tmp_path, results, make_results):
    others = make_results(0.375)["attacks"]
    worst = make_results(0.375)["worst_case"]
    both = results | {"attacks": [*results["attacks"], *others], "worst_case": worst}
    found = numbers(write(tmp_path, both))
    assert [share for _, share in found] == ["95.0 %", "40.0 %", "37.5 %"]
    assert found[2][0] == "worst case of all attacks, L∞, eps 8/255"
    assert verdict.belief(read(Results, both)) == []


def test_the_stages_show_what_each_left_and_cost(tmp_path, results):
    text = write(tmp_path, results)
    assert cells(text, "no attack")[1] == "95.0 %"
    first, third = cells(text, "apgd-ce"), cells(text, "fab-t")
    assert [first[i] for i in (1, 3, 4, 5, 6)] == [
        *("50.0 %", "-45.0", "1.2", "1,000", "0"),
    ]
    assert third[3] == ""
    assert cells(text, "square")[5:] == ["0", "50,000"]
    assert re.findall(r"width:([\d.]+)%", first[2]) == ["50.00", "45.00"]
    assert re.findall(r"width:([\d.]+)%", third[2]) == ["40.00"]


def test_the_twin_stands_beside_its_stages(tmp_path, results, make_autoattack):
    twin = results | {"attacks": [make_autoattack((0.3, 0.2, 0.1, 0.0))]}
    twin["clean"] = twin["clean"] | {"accuracy": 0.97, "ci95": [0.96, 0.98]}
    write(tmp_path / "twin", twin)
    text = write(tmp_path, results)
    shares = [cells(text, name)[-1] for name in ("no attack", "apgd-t", "square")]
    assert shares == ["97.0 %", "20.0 %", "0.0 %"]
    # A twin under another version has other attacks: no share where there is none.
    twin["attacks"][0]["stages"] = twin["attacks"][0]["stages"][:1]
    write(tmp_path / "twin", twin)
    assert cells(write(tmp_path, results), "square")[-1] == ""


def test_what_is_not_as_published_is_said(tmp_path, results, make_autoattack):
    assert "Not as published" not in write(tmp_path, results)
    results["attacks"] = [make_autoattack(replaced=["a < b", "c"], version="plus")]
    text = write(tmp_path, results)
    assert "Not as published: a &lt; b; c." in text
    assert "version plus" in text


def test_two_of_them_have_their_labels(tmp_path, results, make_autoattack):
    l2 = {"norm": "l2", "eps": 0.5, "eps_text": "0.5", "label": "aa_l2"}
    results["attacks"].append(make_autoattack(**l2))
    text = write(tmp_path, results)
    abouts = [about for about, _ in numbers(text)]
    assert "robust accuracy, AutoAttack (aa_l2), L2, eps 0.5" in abouts
    assert (
        "AutoAttack and AutoAttack (aa_l2) do to them (L∞, eps 8/255; L2, eps 0.5)"
        in text
    )
    assert text.count("attack by attack") == 2


def test_without_it_the_number_is_an_upper_bound(make_results):
    weak = make_results(0.4) | {"suite": "ssp2020"}
    assert (
        "Only fgsm and pgd20 ran, not AutoAttack"
        in verdict.belief(read(Results, weak))[0]
    )
    adaptive = make_results(0.4)
    adaptive["attacks"][0] |= {"name": "apgd", "label": "apgd_dlr"}
    [note] = verdict.belief(read(Results, adaptive))
    assert note.startswith("apgd_dlr and pgd20 ran, not AutoAttack")
    assert "upper bound" in note
    assert "the suite autoattack" in note
    assert verdict.belief(read(Results, make_results(0.0))) == []


def test_many_attacks_are_counted_and_their_radii_joined(make_results):
    results = make_results(0.4) | {"suite": "pclc2021"}
    results["attacks"] = [
        results["attacks"][1] | {"label": f"pgd_{eps}", "eps_text": eps}
        for eps in ("0.01", "0.02", "0.03", "0.04", "0.05")
    ]
    text = verdict.verdict(read(Results, results))
    assert "whatever the 5 attacks of the suite pclc2021 do to them" in text
    assert "(L∞, eps 0.01, 0.02, 0.03, 0.04 and 0.05)" in text
    assert (
        "Only the 5 attacks of the suite" in verdict.belief(read(Results, results))[0]
    )


def test_images_it_left_alone_are_explained(tmp_path, make_results, write_run):
    write_run(tmp_path, make_results(0.4))
    text = report.write(tmp_path).read_text()
    assert "grey is none." in text
    with np.load(tmp_path / "evaluation.npz") as held:
        arrays = dict(held)
    arrays["grid_x_adv"][2] = arrays["grid_images"][2] / 255.0
    np.savez(tmp_path / "evaluation.npz", **arrays)
    text = report.write(tmp_path).read_text()
    assert "grey is none: nothing was found, or nothing to do." in text
