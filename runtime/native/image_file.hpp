#pragma once

#include <string>

#include "logo_edge.hpp"

namespace logo_edge {

/// The upright image in a PNG or JPEG file: 8 bits a channel, as the file holds them, without colour management.
///
/// A JPEG of more than 36 million pixels is decoded at 1/2 or less; grey samples of 16 bits that use fewer are scaled up.
/// Throws ImageError where it is no such file, is damaged, is a CMYK JPEG, or costs too much to decode: more than 36 million
/// pixels, of a JPEG four times as many, or scans again and again.
Image read_image(const std::string& path);

}  // namespace logo_edge
