"""`ci2p report`: from run folders to one page that can be looked at, sent and kept.

`run_record` reads a run, `measured` evaluates it, the files named after charts draw them, `page` puts them together.
Only `look` and the charts know matplotlib; `training_pictures` is what a training leaves of them.
"""
