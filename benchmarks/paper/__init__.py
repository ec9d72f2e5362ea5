"""The paper's experiments (arXiv 2602.00792, Section 4) as data, and what runs them.

`table1.py`, `table2.py`, `table3.py` and `figure3.py` beside this folder are the
commands; docs/paper_setting.md says what they need.
"""
