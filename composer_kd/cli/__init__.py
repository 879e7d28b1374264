"""The subcommands of ``composer-kd``, one module each.

A module says ``HELP`` (one line) and ``ABOUT`` (what ``--help`` shows above the options), adds its arguments to a
parser (``add_arguments``) and runs (``run``). It imports nothing heavy until it runs, so that ``--help`` is quick.
"""
