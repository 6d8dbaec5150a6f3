"""Configs that Snakemake would execute, or that grow, are refused before it sees them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from yte import process_yaml

from flashmm.options import InputError
from flashmm.workflow import check_config as checked
from flashmm.workflow.check_config import check_config, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_our_own_configs_are_data(path: Path) -> None:
    check_config(path)
    assert main([str(path)]) == 0


CODE = {
    "use": "__use_yte__: true\nseed: ?exit(3)\n",
    "off": "__use_yte__: false\nseed: 1\n",
    "merged": "counts: &a {__use_yte__: true}\n<<: *a\nseed: ?1+1\n",
    "quoted": '"\\x5f_use_yte__": true\nseed: "?1+1"\n',
    "definitions": "__definitions__: [import os]\n",
    "variables": "datasets: {a: {__variables__: {b: 1}}}\n",
    "text": "report: {title: '?__import__(\"os\")'}\n",
    "key": "datasets:\n  ?if True:\n    a: 1\n",
    "inside": "counts: [a.h5ad, '?open(1)']\n",
    "json": json.dumps({"__use_yte__": True, "seed": "?1+1"}),
}


@pytest.mark.parametrize("name", CODE)
def test_code_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CODE[name])
    with pytest.raises(InputError, match=r"config\.yaml' holds .* which Snakemake would execute"):
        check_config(path)
    assert main([str(path)]) == 1
    assert capsys.readouterr().err.startswith("flashmm: ")


def test_what_is_not_refused_is_what_the_template_engine_gives_back(tmp_path: Path) -> None:
    """Of everything above without what it acts on, YTE makes nothing else than safe YAML."""
    for name, text in CODE.items():
        plain = text.replace("?", "").replace("__", "")
        (tmp_path / "config.yaml").write_text(plain)
        check_config(tmp_path / "config.yaml")
        assert process_yaml(plain, require_use_yte=True) == yaml.safe_load(plain), name


BOMB = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"b{i}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "stands for more than 1000000 values"),
        ("a: &a [*a]\n", "stands for more than 1000000 values"),
        ("a: " + "[" * 600 + "]" * 600, "is nested too deeply"),
        ('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}", "is nested too deeply"),
        ("a: !!python/name:os.system\n", "is no plain YAML or JSON: could not determine"),
        ("a: 2001-99-99\n", "is no plain YAML or JSON: month must be"),
        ("- a\n", "is no config: it holds no keys"),
        ("", "is no config: it holds no keys"),
        ("a: [\n", "is no plain YAML or JSON"),
        ("a: \x00\n", "is no plain YAML or JSON"),
    ],
)
def test_what_is_no_config(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"config\.yaml' {message}"):
        check_config(tmp_path / "config.yaml")


def test_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no file"):
        check_config(tmp_path / "config.yaml")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe' is no file but a pipe"):
        check_config(tmp_path / "pipe")
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff")
    with pytest.raises(InputError, match=r"bytes\.yaml' cannot be read"):
        check_config(tmp_path / "bytes.yaml")
    monkeypatch.setattr(checked, "MOST_BYTES", 3)
    with pytest.raises(InputError, match=r"has 4 bytes; a config has 3 at most"):
        check_config(tmp_path / "bytes.yaml")
