"""What a checker answers: one sentence, and whether the exercise is done."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Verdict", "judge_test"]

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """The answer of a checker; true if the exercise is done, and shown as its sentence."""

    passed: bool
    sentence: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return f"{'✓' if self.passed else '✗'} {self.sentence}"


def judge_test(candidate: Callable[[T], object], right: T, wrong: Mapping[str, T]) -> Verdict:
    """Judge a test that the reader wrote: it must accept ``right`` and refuse each of ``wrong``.

    A test refuses by raising AssertionError or by returning False.
    """

    def accepts(subject: T) -> bool:
        try:
            return candidate(subject) is not False
        except AssertionError:
            return False

    if not accepts(right):
        return Verdict(False, "Your test refuses a correct implementation.")
    for name, subject in wrong.items():
        if accepts(subject):
            return Verdict(False, f"Your test accepts a wrong implementation: {name}.")
    return Verdict(True, f"Your test accepts the correct implementation and refuses all {len(wrong)} wrong ones.")
