"""Whatever a client sends through the pipe, Robyn and every WebSocket live on.

``python -m tests.fuzz_http --seconds 3600 --seed 1`` runs for an hour, against the pump and the pipe in
the process in turn; ``--alone`` is against Robyn itself, which tells what the pipe has to refuse
(``--without chunks trailers ...`` leaves out what is known).  The tests run some seconds of it, and
``python -m pytest -m soak tests/supervisor/proxy/test_http_fuzz.py`` a longer part.

``app`` is the program under test, ``grammar`` makes the cases, ``hunt`` sends them and makes the one that
ended the app smaller, ``corpus`` keeps what was found.
"""
