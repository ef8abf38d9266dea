#include "image_file.hpp"

#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>  // jpeglib.h uses FILE without including it
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include <jpeglib.h>

#include <jerror.h>

namespace logo_edge {
namespace {

constexpr std::uint64_t kMaxPixels = 36'000'000;
constexpr std::uint64_t kJpegShare = 4;  // times kMaxPixels for a JPEG, which is then decoded at 1/2
constexpr std::uint64_t kCoefficients = 3;  // times kMaxPixels for a JPEG of several scans, all in memory at once
constexpr std::uint64_t kScans = 20;  // times kMaxPixels for scans times pixels
constexpr int kMostScans = 14'400;
constexpr std::uint64_t kArithmetic = 6;  // times the cost of Huffman coding
constexpr std::size_t kScannedBytes = 20'000'000;  // of a JPEG of several scans
constexpr int kLeastDepth = 8, kMostDepth = 16, kDepthStep = 2;  // bits that samples of 16 bits may use
constexpr std::streamoff kMaxFileBytes = 256 * 1024 * 1024;
using Bytes = std::vector<std::uint8_t>;

void check_pixels(std::uint64_t width, std::uint64_t height, std::uint64_t most) {
  if (width > 0 && height > 0 && width * height <= most) return;
  const std::string size = std::to_string(width) + " x " + std::to_string(height);
  throw ImageError(size + " pixels; expected 1 to " + std::to_string(most));
}

void allocate(Image& image, std::uint64_t width, std::uint64_t height) {
  check_pixels(width, height, kMaxPixels);
  image.width = static_cast<int>(width);
  image.height = static_cast<int>(height);
  image.rgba.resize(width * height * 4);
}

/// The orientation, 1 to 8, in a TIFF block of EXIF; 1 where it has none. CIPA DC-008.
int orientation_in(const Bytes& exif) {
  const bool little = exif.size() > 8 && exif[0] == 'I';
  const auto read = [&](std::size_t at, int count) {
    std::uint32_t value = 0;
    for (int i = 0; i < count; ++i) value |= exif[at + i] << 8 * (little ? i : count - 1 - i);
    return value;
  };
  if (exif.size() < 14 || read(2, 2) != 42) return 1;
  const std::size_t directory = read(4, 4);
  if (directory > exif.size() - 2) return 1;
  std::size_t left = read(directory, 2);
  for (std::size_t at = directory + 2; left > 0 && at + 12 <= exif.size(); at += 12, --left) {
    if (read(at, 2) != 0x0112) continue;
    const std::uint32_t type = read(at + 2, 2), value = read(at + 8, type == 4 ? 4 : 2);
    const bool is_one = (type == 3 || type == 4) && read(at + 4, 4) == 1 && value >= 1 && value <= 8;
    return is_one ? static_cast<int>(value) : 1;
  }
  return 1;
}

/// The upright image of one that is stored with an EXIF orientation.
Image turn_upright(Image image, int orientation) {
  if (orientation == 1) return image;
  const bool on_its_side = orientation >= 5;
  const bool flip_x = orientation == 2 || orientation == 3 || orientation >= 7;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image upright;
  allocate(upright, on_its_side ? image.height : image.width, on_its_side ? image.width : image.height);
  for (int y = 0; y < upright.height; ++y) {
    for (int x = 0; x < upright.width; ++x) {
      const int column = on_its_side ? y : x, row = on_its_side ? x : y;
      const int from_x = flip_x ? image.width - 1 - column : column;
      const int from_y = flip_y ? image.height - 1 - row : row;
      std::memcpy(&upright.rgba[(std::size_t(y) * upright.width + x) * 4],
                  &image.rgba[(std::size_t(from_y) * image.width + from_x) * 4], 4);
    }
  }
  return upright;
}

/// The jump target of libpng and libjpeg, which are C, when they fail, and their message.
struct Failure {
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

/// Whether `body` returned. It may own no object with a destructor, because a jump runs none.
template <typename Body>
bool succeeds(Failure& failure, const Body& body) {
  if (setjmp(failure.jump) != 0) return false;
  body();
  return true;
}

struct PngSource {
  const Bytes& data;
  std::size_t at;
};

void read_png_bytes(png_structp png, png_bytep to, png_size_t count) {
  auto* source = static_cast<PngSource*>(png_get_io_ptr(png));
  if (count > source->data.size() - source->at) png_error(png, "truncated");
  std::memcpy(to, source->data.data() + source->at, count);
  source->at += count;
}

void fail_png(png_structp png, png_const_charp message) {
  auto* failure = static_cast<Failure*>(png_get_error_ptr(png));
  std::snprintf(failure->message, sizeof failure->message, "%s", message);
  std::longjmp(failure->jump, 1);
}

// Chunks that nothing here reads; libpng would inflate each of them, up to 8 MB at a time.
constexpr png_byte kUnread[] = "iCCP\0iTXt\0sPLT\0tEXt\0zTXt";

void ignore_warning(png_structp, png_const_charp) {}

/// The upper 8 of the bits that grey samples use, as opaque colours; clear where a sample is the transparent value.
void fill_with_grey(Image& image, const std::vector<std::uint16_t>& samples, const png_color_16* clear) {
  int depth = kLeastDepth;
  for (const int top = *std::max_element(samples.begin(), samples.end()); top >= 1 << depth; depth += kDepthStep) {}
  for (std::size_t i = 0; i < samples.size(); ++i) {
    std::memset(&image.rgba[i * 4], samples[i] >> (depth - kLeastDepth), 3);
    image.rgba[i * 4 + 3] = clear != nullptr && samples[i] == clear->gray ? 0 : 255;
  }
}

/// Throws ImageError for an image that is nearly black because its samples use only the lower of 16 bits.
void check_depth(const Image& image, bool has_alpha) {
  int top = 0;
  for (std::size_t i = 0; i < image.rgba.size(); ++i) {
    if (i % 4 < 3 || has_alpha) top = std::max<int>(top, image.rgba[i]);
  }
  if (top == 0 || top >= 16) return;
  throw ImageError("samples of 16 bits that use 12 of them or fewer; scale them to all 16, or save 8 bits");
}

Image decode_png(const Bytes& data) {
  if (data.size() > 16 && std::memcmp(&data[12], "CgBI", 4) == 0) {
    throw ImageError(
        "a PNG in Apple's variant for iPhones (CgBI); restore it with `xcrun pngcrush -revert-iphone-optimizations IN "
        "OUT`");
  }
  Image image;
  std::vector<png_bytep> rows;
  std::vector<std::uint16_t> grey;
  png_color_16* clear = nullptr;
  bool is_grey = false, is_deep = false, has_alpha = false;
  PngSource source{data, 0};
  Failure failure{};
  png_uint_32 exif_size = 0;
  png_bytep exif = nullptr;
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &failure, fail_png, ignore_warning);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  const auto release = [&](void*) { png_destroy_read_struct(&png, &info, nullptr); };
  const std::unique_ptr<void, decltype(release)> guard(&png, release);
  const bool is_read = info != nullptr && succeeds(failure, [&] {
    png_set_read_fn(png, &source, read_png_bytes);
#ifdef PNG_HANDLE_AS_UNKNOWN_SUPPORTED
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, kUnread, int(sizeof kUnread / 5));
#endif
    png_read_info(png, info);
    const int colour = png_get_color_type(png, info);
    is_deep = png_get_bit_depth(png, info) == 16;
    is_grey = is_deep && colour == PNG_COLOR_TYPE_GRAY;
    has_alpha = (colour & PNG_COLOR_MASK_ALPHA) != 0;
    if (is_grey) {
      png_get_tRNS(png, info, nullptr, nullptr, &clear);
      png_set_swap(png);  // to little-endian
      png_set_interlace_handling(png);
      png_read_update_info(png, info);
      return;
    }
    png_set_expand(png);  // palettes, 1 to 4 bits, and transparent colours
    png_set_strip_16(png);
    png_set_gray_to_rgb(png);
    png_set_add_alpha(png, 255, PNG_FILLER_AFTER);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
  });
  if (is_read) {
    allocate(image, png_get_image_width(png, info), png_get_image_height(png, info));
    if (is_grey) grey.resize(std::size_t(image.width) * image.height);
    for (int y = 0; y < image.height; ++y) {
      const std::size_t start = std::size_t(y) * image.width;
      rows.push_back(is_grey ? reinterpret_cast<png_bytep>(&grey[start]) : &image.rgba[start * 4]);
    }
  }
  const bool is_decoded = is_read && succeeds(failure, [&] {
    png_read_image(png, rows.data());
    png_read_end(png, info);
    png_get_eXIf_1(png, info, &exif_size, &exif);
  });
  if (!is_decoded) throw ImageError(std::string("damaged PNG (") + failure.message + ")");
  if (is_grey) fill_with_grey(image, grey, clear);
  else if (is_deep) check_depth(image, has_alpha);
  return turn_upright(std::move(image), orientation_in(Bytes(exif, exif + exif_size)));
}

struct JpegErrors {
  jpeg_error_mgr manager;  // first member, as libjpeg has a pointer to it only
  Failure failure;
  bool lacks_end;  // no end marker; decoding shows whether pixels are missing too
};

void fail_jpeg(j_common_ptr jpeg) {
  auto* errors = reinterpret_cast<JpegErrors*>(jpeg->err);
  errors->manager.format_message(jpeg, errors->failure.message);
  std::longjmp(errors->failure.jump, 1);
}

/// Warnings mean damage: corrupt data or missing pixels. Only the end marker may be missing.
void fail_on_warning(j_common_ptr jpeg, int level) {
  if (level >= 0) return;
  if (jpeg->err->msg_code != JWRN_JPEG_EOF) fail_jpeg(jpeg);
  reinterpret_cast<JpegErrors*>(jpeg->err)->lacks_end = true;
}

/// Whether a progressive JPEG has every coefficient in full precision.
bool is_precise(const jpeg_decompress_struct& jpeg) {
  for (int component = 0; jpeg.coef_bits != nullptr && component < jpeg.num_components; ++component) {
    const int* bits = jpeg.coef_bits[component];
    if (std::any_of(bits, bits + DCTSIZE2, [](int left) { return left != 0; })) return false;
  }
  return true;
}

/// Stops decoding a progressive JPEG of too many scans.
void count_scans(j_common_ptr common) {
  auto* jpeg = reinterpret_cast<j_decompress_ptr>(common);
  const auto scans = static_cast<std::uint64_t>(jpeg->input_scan_number);
  const std::uint64_t pixels = std::uint64_t(jpeg->image_width) * jpeg->image_height;
  if (scans <= kMostScans && scans * pixels <= kScans * kMaxPixels) return;
  auto* errors = reinterpret_cast<JpegErrors*>(jpeg->err);
  std::snprintf(errors->failure.message, sizeof errors->failure.message,
                "%d scans of %u x %u pixels; save it again, with a few", jpeg->input_scan_number, jpeg->image_width,
                jpeg->image_height);
  std::longjmp(errors->failure.jump, 1);
}

/// The divisor of the sides at which a JPEG has at most kMaxPixels. Throws ImageError where it costs too much.
int check_jpeg(jpeg_decompress_struct& jpeg, std::size_t bytes) {
  const std::uint64_t pixels = std::uint64_t(jpeg.image_width) * jpeg.image_height;
  std::uint64_t most = kJpegShare * kMaxPixels;
  if (jpeg.arith_code) {
    most = kMaxPixels / kArithmetic;
  } else if (jpeg_has_multiple_scans(&jpeg)) {
    std::uint64_t all = 0, largest = 1;
    for (int i = 0; i < jpeg.num_components; ++i) {
      const auto blocks = std::uint64_t(jpeg.comp_info[i].h_samp_factor) * jpeg.comp_info[i].v_samp_factor;
      all += blocks;
      largest = std::max(largest, blocks);
    }
    most = std::max(kMaxPixels, kCoefficients * kMaxPixels * largest / all);
    if (bytes > kScannedBytes) {
      throw ImageError("a JPEG of several scans with too many bytes; save it as a baseline JPEG");
    }
  }
  check_pixels(jpeg.image_width, jpeg.image_height, most);
  int scale = 1;
  while (pixels > kMaxPixels * scale * scale) scale *= 2;
  return scale;
}

Image decode_jpeg(const Bytes& data) {
  Image image;
  Bytes row, exif;
  bool is_whole = true;
  JpegErrors errors{};
  jpeg_progress_mgr progress{};
  progress.progress_monitor = count_scans;
  jpeg_decompress_struct jpeg{};
  jpeg.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = fail_jpeg;
  errors.manager.emit_message = fail_on_warning;
  const auto release = [](jpeg_decompress_struct* used) { jpeg_destroy_decompress(used); };
  const std::unique_ptr<jpeg_decompress_struct, decltype(release)> guard(&jpeg, release);
  const bool is_read = succeeds(errors.failure, [&] {
    jpeg_create_decompress(&jpeg);
    jpeg.progress = &progress;
    jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xffff);
    jpeg_mem_src(&jpeg, data.data(), data.size());
    jpeg_read_header(&jpeg, TRUE);
  });
  if (is_read) {
    if (jpeg.num_components == 4) throw ImageError("a CMYK JPEG; convert it to RGB");
    jpeg.scale_num = 1;
    jpeg.scale_denom = check_jpeg(jpeg, data.size());
    jpeg_calc_output_dimensions(&jpeg);
    allocate(image, jpeg.output_width, jpeg.output_height);
    row.resize(image.width * 3UL);
    for (auto marker = jpeg.marker_list; marker != nullptr && exif.empty(); marker = marker->next) {
      if (marker->data_length > 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0) {
        exif.assign(marker->data + 6, marker->data + marker->data_length);
      }
    }
  }
  const bool is_decoded = is_read && succeeds(errors.failure, [&] {
    jpeg.out_color_space = JCS_RGB;
    jpeg_start_decompress(&jpeg);
    while (jpeg.output_scanline < jpeg.output_height) {
      std::uint8_t* to = &image.rgba[std::size_t(jpeg.output_scanline) * image.width * 4];
      JSAMPROW rows[] = {row.data()};
      jpeg_read_scanlines(&jpeg, rows, 1);
      for (int x = 0; x < image.width; ++x, to += 4) {
        std::memcpy(to, &row[x * 3UL], 3);
        to[3] = 255;
      }
    }
    is_whole = !errors.lacks_end || is_precise(jpeg);
    jpeg_finish_decompress(&jpeg);
  });
  if (is_decoded && !is_whole) throw ImageError("damaged JPEG (it ends before its last scan)");
  if (!is_decoded) throw ImageError(std::string("damaged JPEG (") + errors.failure.message + ")");
  return turn_upright(std::move(image), orientation_in(exif));
}

}  // namespace

Image read_image(const std::string& path) {
  std::error_code unknown;
  if (!std::filesystem::is_regular_file(path, unknown)) throw ImageError("no regular file; expected an image file");
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file.is_open() ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0 || size > kMaxFileBytes) throw ImageError("cannot be read; expected an image file of up to 256 MiB");
  Bytes data(static_cast<std::size_t>(size));
  file.seekg(0);
  if (!file.read(reinterpret_cast<char*>(data.data()), size)) {
    throw ImageError("cannot be read; expected an image file");
  }
  if (data.size() > 8 && png_sig_cmp(data.data(), 0, 8) == 0) return decode_png(data);
  if (data.size() > 3 && data[0] == 0xff && data[1] == 0xd8) return decode_jpeg(data);
  throw ImageError("neither PNG nor JPEG");
}

}  // namespace logo_edge
