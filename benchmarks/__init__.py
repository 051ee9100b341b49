"""How fast and how lean the package is, against others and against what cannot be beaten.

`make bench` runs each `bench_*.py` with pytest-benchmark, in a process of its own (what one part
leaves in memory would slow the next), and prints one table: work, target, measured, met or not.
The table (Markdown), the plot (SVG) and every number (JSON) are left in `_build/bench`. The
modules: `peers` are the others, written from the equations, and the floors; `works` makes the
inputs and puts package and peers side by side; `fresh` and `measure` measure; `telling` makes
lines of what was measured, and `report` the table.
"""
