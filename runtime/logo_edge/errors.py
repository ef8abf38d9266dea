"""The errors that logo-edge raises on purpose; each message says what was found, what was expected, what to do."""


class LogoEdgeError(Exception):
    """Base of every error that a user can cause or mend."""


class BundleError(LogoEdgeError):
    """A bundle is missing, damaged, tampered with or of another format."""


class ImageError(LogoEdgeError):
    """One input is no readable image; other inputs are not concerned."""


class EnrolmentError(LogoEdgeError):
    """A file of enrolled classes is missing, damaged, of another bundle, or has no such class."""


class DatasetError(LogoEdgeError):
    """A manifest, an icon package or a folder of logos does not fit."""


class RecipeError(LogoEdgeError):
    """A training or compression recipe has an unknown key or an impossible value."""


class RunError(LogoEdgeError):
    """A training run cannot start, go on or be read."""


class VerificationError(LogoEdgeError):
    """An exported or quantized artifact disagrees with the model that it was made from."""


class SelectionError(LogoEdgeError):
    """No candidate of a compression meets the limits that were asked for."""


class ExportError(LogoEdgeError):
    """A model cannot be had in the format, precision or place that was asked for."""


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
        return type(self), (self.extra, self._package)  # an exception is pickled by its arguments, here a single text


def warn(message: str) -> None:
    """Says on stderr, or wherever the program sends its logs, what a user should know of a classifier that works."""
    import logging  # 5 ms that a plain start need not pay

    logging.getLogger("logo_edge").warning(message)
