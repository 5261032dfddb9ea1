"""Benchmarks, side by side with other servers: ``python -m tests.benchmarks`` (see ``--help``).

Not collected by the test run, and nothing here asserts a time: it measures and prints.  Needs the
extra ``bench``, a C compiler, and two cores: the server gets one of them and the load the other.

The way of a measurement: ``__main__`` takes the servers in turn, A B C A B C …; ``works`` runs one
work against one server and gives ``Sample``s; ``processes`` starts, pins and weighs the programs;
``table`` makes medians, ratios and tables of the samples.
"""
