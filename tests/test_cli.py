"""The command `jaxrobust`, and what `jaxrobust doctor` tells."""

import importlib.util
import pathlib
import tomllib

import pytest

from jaxrobust import cli, doctor

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("line", "module", "arguments"),
    [
        ("train quickstart:quick --mode=train", "jaxrobust.main",
         ["--config=quickstart:quick", "--mode=train"]),
        ("train --config x.py", "jaxrobust.main", ["--config", "x.py"]),
        ("evaluate runs/a --attack pgd:eps=0.1", "jaxrobust.main",
         ["--mode=eval", "--workdir=runs/a", "--attack", "pgd:eps=0.1"]),
        ("report runs/a", "jaxrobust.main", ["--mode=report", "--workdir=runs/a"]),
        ("compare runs/a runs/b", "jaxrobust.compare", ["runs/a", "runs/b"]),
        ("report --format text runs/a", "jaxrobust.main",
         ["--mode=report", "--workdir=runs/a", "--format", "text"]),
        ("report --format=text", "jaxrobust.main",
         ["--mode=report", "--format=text"]),
        ("attack zoo:digits_ssc --certify", "jaxrobust.evaluation",
         ["--model=zoo:digits_ssc", "--certify"]),
        ("attack --model m:f --attack pgd", "jaxrobust.evaluation",
         ["--model", "m:f", "--attack", "pgd"]),
        ("attack --help", "jaxrobust.evaluation", ["--help"]),
    ],
)  # fmt: skip
def test_a_word_is_a_program_and_its_flags(line, module, arguments):
    assert cli.expand(line.split()) == (module, arguments)


@pytest.mark.parametrize("command", cli.COMMANDS.values(), ids=list(cli.COMMANDS))
def test_every_program_is_there(command):
    assert importlib.util.find_spec(command.module)
    assert command.says


def test_an_unknown_word_is_told_with_the_nearest_and_the_list():
    with pytest.raises(SystemExit, match=r"no command 'trian'. Did you mean 'train'"):
        cli.expand(["trian"])


@pytest.mark.parametrize("line", [[], ["--help"], ["help"]])
def test_help_is_no_error(line, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.expand(line)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.COMMANDS)


def test_the_package_installs_the_command_and_the_configs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"jaxrobust": "jaxrobust.cli:main"}
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"configs": "jaxrobust/configs"}


def test_the_doctor_tells_a_row_for_each_thing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    assert doctor.main() == 0
    out = capsys.readouterr().out
    for word in ("jaxrobust: ", "devices: ", "XLA_FLAGS: ", "mnist", "programs"):
        assert word in out


def test_the_doctor_tells_what_does_not_work(tmp_path, monkeypatch, capsys):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(file))
    assert doctor.main() == 1
    assert "NO  compiled programs: " in capsys.readouterr().out
