"""Where a host's data begin, as a host without samplers of its own reads them."""

from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, IterableDataset

from mdlm_mcd.distillers.rows import Rows
from mdlm_mcd.errors import ConfigError


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(8))


@pytest.mark.parametrize("batches", [0, 3])
def test_a_stream_begins_at_its_first_row_or_not_at_all(batches):
    """The host puts a loader of its own in; a resumed run would read rows again."""
    current = SimpleNamespace(processed=batches)
    progress = SimpleNamespace(current=current, is_last_batch=False)
    loop = SimpleNamespace(
        _combined_loader=SimpleNamespace(flattened=[DataLoader(Stream())]),
        epoch_loop=SimpleNamespace(batch_progress=progress),
        epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=0)),
        _data_fetcher=[],
    )
    rows = Rows(SimpleNamespace(fit_loop=loop), seed=1)
    loop._combined_loader.flattened = [DataLoader(Stream())]
    if batches:
        with pytest.raises(ConfigError, match="resume_ckpt_path: after 3 batches .* begin anew"):
            rows.begin()
    else:
        rows.begin()
        rows.begin_epoch()
        assert rows.epoch == 0
