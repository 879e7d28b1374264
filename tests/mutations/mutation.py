"""One change of the package that brings a fault back, and the tests that must notice it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A fault, as a change of one piece of text of one file.

    Args:
        fault: What goes wrong with the change, in a few words.
        path: The file, from the repository's root.
        before: The text that is replaced; it stands in the file exactly once.
        after: The text in its place.
        tests: What pytest runs; at least one of these tests must fail.
    """

    fault: str
    path: str
    before: str
    after: str
    tests: tuple[str, ...]
