"""The one family of exceptions that operant_gpu raises."""


class OperantError(Exception):
    """Base of every error raised by operant_gpu."""


class InvalidConfig(OperantError, ValueError):
    """A setting that cannot work.

    Attributes:
        param: Name of the offending setting.
    """

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


class ActionError(OperantError, ValueError):
    """Actions that the environment cannot take: wrong shape, dtype, device or value."""


class BackendError(OperantError, RuntimeError):
    """A backend or device that is missing on this machine, or that does not fit the request."""


class CheckpointError(OperantError, RuntimeError):
    """A checkpoint that cannot be written, or that is damaged or none at all."""


class ExportError(OperantError, RuntimeError):
    """A policy that cannot be exported, or does something else where it was exported to."""


class ResetNeeded(OperantError, RuntimeError):
    """A step before the first reset, or any use after `close`."""


class TrainingError(OperantError, RuntimeError):
    """A training run that has gone wrong: numbers that are not finite."""


class UnsupportedConstruct(OperantError, TypeError):
    """A construct in an environment function that not every backend runs alike."""


def one_line(error: Exception) -> str:
    """Return an error's text without line breaks, of which PyTorch's have many."""
    return " ".join(str(error).split())
