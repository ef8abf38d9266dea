/* The pixels of a PNG from its inflated rows; part of preprocess.c. PNG, 9. */

#ifdef HAS_VECTORS
#define INLINE static inline __attribute__((always_inline)) /* so that the number of channels is a constant */

typedef int16_t Samples __attribute__((vector_size(16))); /* of one pixel */
typedef uint8_t Bytes __attribute__((vector_size(8)));

INLINE Samples read_samples(const uint8_t *bytes, int channels) {
  Bytes pixel = {0};
  memcpy(&pixel, bytes, channels);
  return __builtin_convertvector(pixel, Samples);
}

INLINE void write_samples(Samples samples, uint8_t *bytes, int channels) {
  const Bytes pixel = __builtin_convertvector(samples, Bytes);
  memcpy(bytes, &pixel, channels);
}

INLINE Samples total(Samples one, Samples other) { return (one + other) & 255; }
INLINE Samples mean(Samples one, Samples other) { return (one + other) >> 1; }

#ifdef __SSE2__
#include <emmintrin.h>
INLINE Samples smaller_of(Samples one, Samples other) { return (Samples)_mm_min_epi16((__m128i)one, (__m128i)other); }
INLINE Samples magnitude_of(Samples samples) { return (Samples)_mm_max_epi16((__m128i)samples, (__m128i)-samples); }
#else
INLINE Samples smaller_of(Samples one, Samples other) { return (one & (one < other)) | (other & ~(one < other)); }
INLINE Samples magnitude_of(Samples samples) { return (samples ^ (samples >> 15)) - (samples >> 15); }
#endif

/* The one of left, up and corner that is nearest to left + up - corner; of equally near ones the first. */
INLINE Samples nearest(Samples left, Samples up, Samples corner) {
  const Samples of_left = magnitude_of(up - corner), of_up = magnitude_of(left - corner);
  const Samples of_corner = magnitude_of((left - corner) + (up - corner));
  const Samples least_of = smaller_of(smaller_of(of_left, of_up), of_corner);
  const Samples is_left = least_of == of_left, is_up = least_of == of_up;
  return (left & is_left) | (~is_left & ((up & is_up) | (corner & ~is_up)));
}
#else
#define INLINE static inline

typedef struct {
  int of[4];
} Samples;

INLINE Samples read_samples(const uint8_t *bytes, int channels) {
  Samples samples = {{0}};
  for (int i = 0; i < channels; ++i) samples.of[i] = bytes[i];
  return samples;
}

INLINE void write_samples(Samples samples, uint8_t *bytes, int channels) {
  for (int i = 0; i < channels; ++i) bytes[i] = (uint8_t)samples.of[i];
}

INLINE Samples total(Samples one, Samples other) {
  for (int i = 0; i < 4; ++i) one.of[i] = (one.of[i] + other.of[i]) & 255;
  return one;
}

INLINE Samples mean(Samples one, Samples other) {
  for (int i = 0; i < 4; ++i) one.of[i] = (one.of[i] + other.of[i]) / 2;
  return one;
}

INLINE Samples nearest(Samples left, Samples up, Samples corner) {
  for (int i = 0; i < 4; ++i) {
    const int of_left = abs(up.of[i] - corner.of[i]), of_up = abs(left.of[i] - corner.of[i]);
    const int of_corner = abs(left.of[i] + up.of[i] - 2 * corner.of[i]);
    if (of_left > of_up || of_left > of_corner) left.of[i] = of_up > of_corner ? corner.of[i] : up.of[i];
  }
  return left;
}
#endif

/* Undoes the filter of a row of `width` pixels; false for an unknown one. */
INLINE int unfilter_row(int filter, const uint8_t *restrict from, const uint8_t *restrict above, int channels,
                        int width, uint8_t *restrict row) {
  enum { SUB = 1, UP, AVERAGE, PAETH };
  const size_t bytes = (size_t)channels * width;
  const uint8_t none[4] = {0};
  Samples left = read_samples(none, channels), corner = left;
  if (filter == SUB) {
    for (size_t x = 0; x < bytes; x += channels) {
      left = total(left, read_samples(from + x, channels));
      write_samples(left, row + x, channels);
    }
  } else if (filter == UP) {
    for (size_t x = 0; x < bytes; ++x) row[x] = (uint8_t)(from[x] + above[x]);
  } else if (filter == AVERAGE) {
    for (size_t x = 0; x < bytes; x += channels) {
      left = total(read_samples(from + x, channels), mean(left, read_samples(above + x, channels)));
      write_samples(left, row + x, channels);
    }
  } else if (filter == PAETH) {
    for (size_t x = 0; x < bytes; x += channels) {
      const Samples up = read_samples(above + x, channels);
      left = total(read_samples(from + x, channels), nearest(left, up, corner));
      corner = up;
      write_samples(left, row + x, channels);
    }
  } else {
    memcpy(row, from, bytes);
  }
  return filter <= PAETH;
}

FOR_EACH_CPU static int unfilter_rgb(const uint8_t *from, const uint8_t *above, int width, uint8_t *row) {
  return unfilter_row(from[0], from + 1, above, 3, width, row);
}

FOR_EACH_CPU static int unfilter_rgba(const uint8_t *from, const uint8_t *above, int width, uint8_t *row) {
  return unfilter_row(from[0], from + 1, above, 4, width, row);
}

int logo_edge_unfilter(const uint8_t *rows, int channels, int width, int height, const uint8_t *above,
                       uint8_t *pixels) {
  const size_t bytes = (size_t)channels * width;
  for (int y = 0; y < height; ++y, rows += bytes + 1, above = pixels, pixels += bytes) {
    if (!(channels == 4 ? unfilter_rgba : unfilter_rgb)(rows, above, width, pixels)) return 1;
  }
  return 0;
}
