"""Files after an interruption."""

import pytest
import torch

from mdlm_mcd.checkpoints import files


def test_checkpoints_cut_short_are_passed_over(tmp_path):
    for name, step in (("a", 10), ("b", 20), ("last", 30)):
        torch.save({"global_step": step, "w": torch.zeros(99)}, tmp_path / f"{name}.ckpt")
    assert files.newest_checkpoint(tmp_path) == (tmp_path / "last.ckpt", 30)
    path = tmp_path / "last.ckpt"
    path.write_bytes(path.read_bytes()[:300])
    torch.save({"global_step": None}, tmp_path / "none.ckpt")
    assert files.newest_checkpoint(tmp_path) == (tmp_path / "b.ckpt", 20)
    assert files.newest_checkpoint(tmp_path / "none") == (None, 0)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    assert files.read_json(path, {"x": 1}) == {"x": 1}
    files.write_json(path, {"ppl": 1.5, "text": "\u00e4"})
    with pytest.raises(TypeError):
        files.write_json(path, {"bad": object()})
    assert files.read_json(path, None) == {"ppl": 1.5, "text": "\u00e4"}
    path.write_text('{"cut sho')
    assert files.read_json(path, None) is None
