"""Config files that are not there, are broken, or are something else."""

import pytest
from ml_collections import ConfigDict

from jaxrobust.training import config_file

START = "from jaxrobust.training import config\n"


def test_a_config_and_its_argument(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        f"{START}def get_config(arg=None):\n"
        "    c = config.base()\n    c.name = str(arg)\n    return c\n"
    )
    assert config_file.load(str(path)).name == "None"
    assert config_file.load(f"{path}:a:b").name == "a:b"
    odd = path.rename(tmp_path / "a:b.py")
    assert config_file.load(str(odd)).name == "None"


def test_a_name_alone_is_one_of_ours_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_file.load("quickstart:quick").data.test_examples == 64
    with pytest.raises(ValueError, match=r"quickstrt: .* Did you mean quickstart\?"):
        config_file.load("quickstrt")
    (tmp_path / "quickstart").write_text(  # a file of that name comes first
        f"{START}def get_config():\n    return config.base()\n"
    )
    assert config_file.load("quickstart").twin == ""


def test_a_plain_dict_is_a_config(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"{START}def get_config():\n    return config.base().to_dict()\n")
    assert isinstance(config_file.load(str(path)), ConfigDict)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ndef f(:\n", "line 2: invalid syntax"),
        ("x = 1\n\ny = undefined\n", "line 3: NameError: name 'undefined'"),
        ("import nowhere_at_all\n", "line 1: ModuleNotFoundError: No module named"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
        ("x = 1\n", "has no function get_config()"),
        ("get_config = 3\n", "has no function get_config()"),
        ("def get_config():\n    return {}['x']\n", "line 2: KeyError: 'x'"),
        ("def get_config():\n    raise ValueError('a\\nb')\n", "ValueError: a b"),
        ("def get_config():\n    return 3\n", "must return a ConfigDict, got int"),
        ("def get_config(a, b):\n    return 3\n", "TypeError: get_config() missing"),
        ("def get_config():\n    return {'seed': 1}\n", "lacks attack, data, det"),
        (
            f"{START}def get_config():\n    c = config.base()\n    del c.train.ema\n"
            "    return c\n",
            "lacks train.ema; start from",
        ),
        (
            f"{START}def get_config():\n    return {{**config.base(), 'eval': 3}}\n",
            "`eval` must be a table of fields, got 3",
        ),
        (b"\x00\x01\x02", "null bytes"),
        (b"\xff\xfe\xfa", "utf-8"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(tmp_path, source, message):
    path = tmp_path / "mine.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    with pytest.raises(ValueError, match=r"mine\.py") as caught:
        config_file.load(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "my_experiment.py",
            "No such file or directory. Did you mean {}/my_experiments.py",
        ),
        (
            "my_experiment",
            "No such file or directory. Did you mean {}/my_experiments.py",
        ),
        (".", "Is a directory."),
        ("a\0b.py", "null byte"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, name, message):
    (tmp_path / "my_experiments.py").write_text("")
    with pytest.raises(ValueError, match="config ") as caught:
        config_file.load(f"{tmp_path}/{name}")
    assert message.format(tmp_path) in str(caught.value)
