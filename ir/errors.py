"""Every error planish raises on purpose, and how its message is built.

    PlanishError
    ├── ModelError             the input model is at fault
    │   ├── ReadError          not a model, truncated, or beyond a stated limit
    │   │   └── ExternalDataError   weights outside the model's folder, missing, or too short
    │   └── VerifyError        the graph breaks an invariant (message says which)
    ├── TextError              the textual form does not parse
    ├── PipelineError          unknown pass, unknown option, malformed pipeline text
    ├── PassError              a pass did something wrong; its author is at fault
    ├── NotEquivalentError     the optimized model does not compute the same
    ├── BudgetError            an error budget cannot be judged or met
    ├── BackendError           a runtime refused or failed
    └── UsageError             an argument of a command or an API call is wrong

A message has a first line with the subsystem in brackets, what was found and what was expected; then,
where they are known, the IR line, its origin in the ONNX file, one line of help that says whose fault
it is, and the command that replays the failure.
"""

from __future__ import annotations


class PlanishError(Exception):
    """Base of all errors raised on purpose. ``str(error)`` is the whole message, ready to print."""

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        at: str | None = None,
        origin: str | None = None,
        help: str | None = None,
        repro: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        """Pass or subsystem, as in ``error[fold-conv-batchnorm]``."""
        self.at = at
        """The line of the textual form that is concerned."""
        self.origin = origin
        """The node's name in the file it came from."""
        self.help = help
        """Whose fault it is and what to do."""
        self.repro = repro
        """A command that replays the failure."""

    def __str__(self) -> str:
        lines = [f"error[{self.where}]: {self.message}" if self.where else f"error: {self.message}"]
        if self.at:
            lines.append(f"  at    {self.at}" + (f"      // from {self.origin!r}" if self.origin else ""))
        elif self.origin:
            lines.append(f"  from  {self.origin!r}")
        if self.help:
            lines.append(f"  help  {self.help}")
        if self.repro:
            lines.append(f"  repro {self.repro}")
        return "\n".join(lines)


class ModelError(PlanishError):
    """The input model is at fault."""


class ReadError(ModelError):
    """The file is not a model, is damaged, or exceeds a stated limit."""


class ExternalDataError(ReadError):
    """Weights stored beside the model are missing, too short, or outside the model's folder."""


class VerifyError(ModelError):
    """The graph breaks one of its invariants."""


class TextError(PlanishError):
    """The textual form does not parse."""


class PipelineError(PlanishError):
    """A pipeline names an unknown pass or option, or is malformed."""


class PassError(PlanishError):
    """A pass broke the rules of rewriting; its author is at fault, not the model."""


class NotEquivalentError(PlanishError):
    """The optimized model does not compute what the original computes."""


class BudgetError(PlanishError):
    """An error budget cannot be judged on this model and metric, or not even rounding stays within it."""


class BackendError(PlanishError):
    """A runtime refused a model or failed while running it."""


class UsageError(PlanishError):
    """An argument of a command or an API call is wrong."""
