"""Classifies logos on edge devices, with calibrated confidence. See `Classifier`."""

from logo_edge.bundle.calibration import Mode
from logo_edge.bundle.record import Bundle, read_bundle
from logo_edge.classifier import Classifier
from logo_edge.errors import BundleError, ImageError, LogoEdgeError
from logo_edge.images.load import load_image
from logo_edge.preprocess import InputContract, preprocess
from logo_edge.privacy import send_nothing
from logo_edge.results import Classification, Rejection

send_nothing()  # before any backend is imported

__version__ = "0.1.0"
__all__ = [
    "Bundle",
    "BundleError",
    "Classification",
    "Classifier",
    "ImageError",
    "InputContract",
    "LogoEdgeError",
    "Mode",
    "Rejection",
    "load_image",
    "preprocess",
    "read_bundle",
]
