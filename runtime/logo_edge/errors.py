"""The errors that logo-edge raises on purpose, and its one way to warn.

Each message says what was found, what was expected and what to do.
"""


class LogoEdgeError(Exception):
    """Base of every error that a user can cause or fix."""


class BundleError(LogoEdgeError):
    """A bundle is missing, damaged, tampered with or of another format."""


class ImageError(LogoEdgeError):
    """One input is no readable image; other inputs are not affected."""


class EnrolmentError(LogoEdgeError):
    """A file of enrolled classes is missing, damaged, of another bundle, or lacks the class."""


class DatasetError(LogoEdgeError):
    """A manifest, an icon package or a folder of images is not as expected."""


class RecipeError(LogoEdgeError):
    """A training or compression recipe has an unknown key or an impossible value."""


class RunError(LogoEdgeError):
    """A training run cannot start, resume or be read."""


class VerificationError(LogoEdgeError):
    """An exported or quantized artifact disagrees with its parent model."""


class SelectionError(LogoEdgeError):
    """No candidate of a compression meets the given limits."""


class ExportError(LogoEdgeError):
    """A model cannot be exported in the given format or precision, or to the given target."""


class BenchError(LogoEdgeError):
    """A candidate cannot be measured, or results cannot be compared."""


class MissingExtraError(LogoEdgeError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, package: str):
        super().__init__(
            f"this needs the Python package {package}, which the base install leaves out. "
            f"Install it with: pip install 'logo-edge[{extra}]'"
        )
        self.extra, self._package = extra, package

    def __reduce__(self):
        return type(self), (self.extra, self._package)  # the default pickles `args`, here the message alone


def warn(message: str) -> None:
    """Logs a warning about a classifier that works all the same; by default it appears on stderr."""
    import logging  # 5 ms, which most starts do not need

    logging.getLogger("logo_edge").warning(message)
