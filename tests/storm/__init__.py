"""Storms: the same promise tried again and again, each time with another kill, flip, fault or hostile file.

    python -m tests.storm [--tries 100] [--seed 0] [--kind NAME ...] [--table docs/reliability.md]

A try draws all it does from (seed, kind, number), so that one that went wrong can be repeated alone (`--first`). The
ordinary suite makes two or four of each kind (tests/test_storm.py).

kind.py       what a kind of storm is, and how its tries are counted
victims.py    processes that may be killed: quickly started, since they are forked where all is imported
kills.py      SIGKILL and a disk that refuses, under encode, convert and train
damage.py     flipped bits, cut, lost and strange files, in a cache and in a run
network.py    a server of HTTP that fails
hostile.py    pictures and tars that are none
"""

import os

# One thread a process, whose sums are the same in each of them; set before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"
