#pragma once

#include <string>

#include "logo_edge.hpp"

namespace logo_edge {

/// The upright image in a PNG or JPEG file: 8 bits a channel, as the file holds them, without colour management.
///
/// Throws ImageError where it is no such file, is damaged, is a CMYK JPEG, or has more than 36 million pixels.
Image read_image(const std::string& path);

}  // namespace logo_edge
