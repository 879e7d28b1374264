# PYTHON_ARGCOMPLETE_OK: shells that complete all commands of Python ask this one too.
"""``python -m composer_kd``: the same as the command ``composer-kd`` (the ``composer`` launcher needs a module)."""

import sys

from composer_kd.cli.main import main

if __name__ == '__main__':
    sys.exit(main())
