"""The subcommands of ``composer-kd``, one module each.

A module defines ``HELP`` (one line) and ``ABOUT`` (the text of ``--help`` above the options), adds its arguments to a
parser (``add_arguments``) and runs the command (``run``). Slow imports are inside ``run``, so that ``--help`` is fast.
"""
