#pragma once

#include <string>

#include "logo_edge.hpp"

namespace logo_edge {

/// The upright image in a PNG or JPEG file: 8 bits a channel, as stored, without colour management.
///
/// A JPEG of more than 36 million pixels is decoded at 1/2 or less. Grey samples of 16 bits that use fewer bits are
/// scaled up. Throws ImageError where the file is not PNG or JPEG, is damaged, is a CMYK JPEG, or costs too much to
/// decode: more than 36 million pixels (JPEG: four times as many) or too many scans.
Image read_image(const std::string& path);

}  // namespace logo_edge
