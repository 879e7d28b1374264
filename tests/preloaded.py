"""What processes of tests have imported when they start; the garbage collector leaves that alone in each of them."""

import gc

import transformers  # noqa: F401

import composer_kd.algorithms
import composer_kd.runs.train  # noqa: F401

gc.freeze()
