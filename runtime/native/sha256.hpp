#pragma once

#include <cstddef>
#include <string>

namespace logo_edge {

/// The SHA-256 of `size` bytes in hexadecimal. FIPS 180-4.
std::string sha256(const void* data, std::size_t size);

}  // namespace logo_edge
