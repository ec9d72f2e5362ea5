"""Byte order marks, line ends and encodings: read alike wherever text comes from."""

import json
import linecache
import sys
import traceback
from unittest import mock

import fakes
import pytest
import torch
from safetensors.torch import save_file

from hydra_plugins import mdlm_mcd_searchpath as plugin
from mdlm_mcd.checkpoints import files, weights
from mdlm_mcd.hosts import launch, stubs
from mdlm_mcd.hosts.specs import DUO

MARK = "\ufeff"


WAYS = {
    "plain": str.encode,
    "mark": lambda text: (MARK + text).encode(),
    "windows": lambda text: (MARK + text.replace("\n", "\r\n")).encode(),
}
one_file = pytest.mark.parametrize("way", WAYS.values())


@one_file
def test_configs_and_tables_of_weights(tmp_path, way):
    save_file({"backbone.x": torch.ones(2)}, tmp_path / "part.safetensors")
    table = {"weight_map": {"backbone.x": "part.safetensors"}}
    for file, value in (("config.json", {"n_heads": 2}), ("model.safetensors.index.json", table)):
        (tmp_path / file).write_bytes(way(json.dumps(value, indent=1)))
    found = weights.read_weights(str(tmp_path))
    assert found.config == files.read_json(tmp_path / "config.json", None) == {"n_heads": 2}
    assert list(found.state_dict) == ["x"]


@one_file
@pytest.mark.parametrize("first", ["", "# a comment\n", "defaults: []\n"])
def test_the_hosts_config(tmp_path, way, first):
    path = tmp_path / "config.yaml"
    path.write_bytes(way(f"{first}parameterization: subs\nalgo: {{}}\n"))
    assert plugin.family(plugin.read(path)) == "mdlm"


@one_file
def test_a_commented_line_with_a_mark_is_no_patch(tmp_path, way):
    path = tmp_path / "main.py"
    path.write_bytes(way("# algo._target_\nimport hydra\n"))
    assert not plugin.trains_ours(plugin.read(path))


# main.py in memory --------------------------------------------------------------------

HEAD = '"""A host\u2019s."""\n'
LINES = 'NAME = "caf\xe9"\n\x0c\nSEPARATOR = "\x1c"\n\n\ndef fail():\n    1 / 0\n'


@pytest.mark.parametrize(
    "before, encoding, newline, cuda",
    [
        (HEAD, "utf-8", "\n", True),
        (HEAD, "utf-8-sig", "\n", False),
        (HEAD, "utf-8-sig", "\r\n", True),
        ("# -*- coding: latin-1 -*-\n", "latin-1", "\n", False),
        ("#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\n", "cp1252", "\r\n", False),
    ],
)
def test_main_as_python_reads_it(tmp_path, monkeypatch, before, encoding, newline, cuda):
    host = fakes.duo(tmp_path)
    path = host / "main.py"
    text = before + path.read_text() + LINES
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    layout, source, in_memory = launch.prepare(host)
    assert layout is DUO and in_memory and "algo._target_" in source
    name = str(tmp_path / "as_run.py")
    scope = {"__name__": "host", "__file__": name}
    monkeypatch.chdir(host)
    monkeypatch.setattr(sys, "path", [str(host), *sys.path])
    launch.remember(name, source)
    with mock.patch.dict(sys.modules):
        for module in ("algo", "dataloader", "trainer_base", "utils"):
            sys.modules.pop(module, None)
        exec(stubs.compiled(name, source), scope)
    assert scope["NAME"] == "caf\xe9"
    with pytest.raises(ZeroDivisionError) as error:
        scope["fail"]()
    last = traceback.extract_tb(error.value.__traceback__)[-1]
    assert last.line == "1 / 0"
    linecache.cache.pop(name)
