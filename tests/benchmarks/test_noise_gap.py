"""The law of the noise gap is timed in all that it does."""

import noise_gap


def test_each_call_is_timed(monkeypatch, capsys):
    monkeypatch.setattr(noise_gap, "CLASSES", (2, 7))
    monkeypatch.setattr(noise_gap, "POINTS", (5,))
    monkeypatch.setattr("sys.argv", ["noise_gap.py", "--repeats", "1"])
    noise_gap.main()
    _, head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["classes", "points", "cdf", "pdf", "icdf"]
    assert [row.split()[:2] for row in rows] == [["2", "5"], ["7", "5"]]
    assert all(0 <= float(x) < 10_000 for row in rows for x in row.split()[2:])
