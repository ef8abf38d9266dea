/* The scaling of preprocess.c, which alone includes this file.

   The resampling is Pillow 13's antialiased triangle filter in fixed point, along one axis after the other, each pass
   rounded to 8 bits. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "pixels are read as little-endian words; without this file the runtime uses Pillow"
#endif

#if (defined(__GNUC__) || defined(__clang__)) && !defined(LOGO_EDGE_NO_VECTORS)
#define HAS_VECTORS /* extensions of gcc and clang; others, such as MSVC, take plain loops */
#if defined(__x86_64__) && !defined(LOGO_EDGE_NO_AVX2)
#include <immintrin.h>
#define HAS_AVX2 __builtin_cpu_supports("avx2")
#endif
#endif

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

enum { PRECISION_BITS = 22, HALF = 1 << (PRECISION_BITS - 1) };
enum { LOWER_BITS = 8 }; /* of a weight that is split into two numbers of 16 bits */
enum { LANES = 4 };      /* rows that are scaled together */
enum { PART = 32 };      /* bytes of a row that are mixed together */
enum { QUAD = 4 };       /* pixels that are read together */
enum { FLAT_TAPS = 16384 }; /* the weighted sum of so many equal bytes is that byte, however weights were rounded */

/* The inputs of each pixel of a scaled axis: `count` pixels from `first` on, with weights of sum 2^22. */
typedef struct {
  int most, *first, *count;
  int32_t *weights; /* `most`, an even number, for each; 0 after `count` */
  int quads;        /* so many hold the inputs of any pixel */
  int *start;       /* of those quads, which end before the last pixel where there are so many */
  int16_t *halves;  /* for each two pixels of the result and each quad, see split_taps; NULL without AVX2 */
  uint8_t *changes; /* for each PART of a row that is scaled, see find_steps */
  int32_t *paired;  /* weights for two pixels, repeated for every byte of a pixel: `pairs` times 8 for each */
  int pairs;
} Taps;

static int least(int one, int other) { return one < other ? one : other; }
static int greatest(int one, int other) { return one > other ? one : other; }

/* The taps from the first `box` of `from` pixels to `to` pixels; false where memory runs out. */
static int make_taps(Taps *taps, int from, double box, int to) {
  const double scale = box / to, support = fmax(scale, 1);
  taps->most = (int)ceil(support) * 2 + 2;
  taps->first = malloc(sizeof(int) * to);
  taps->count = malloc(sizeof(int) * to);
  taps->weights = calloc((size_t)to * taps->most, sizeof(int32_t));
  double *shares = malloc(sizeof(double) * taps->most);
  const int allocated = taps->first && taps->count && taps->weights && shares;
  for (int i = 0; allocated && i < to; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = greatest(0, (int)(centre - support + 0.5)), last = least(from, (int)(centre + support + 0.5));
    double total = 0;
    for (int x = first; x < last; ++x) {
      total += shares[x - first] = fmax(0, 1 - fabs((x - centre + 0.5) * (1 / support)));
    }
    int32_t *weights = taps->weights + (size_t)i * taps->most;
    for (int x = 0; x < last - first; ++x) weights[x] = (int32_t)(0.5 + shares[x] / total * (1 << PRECISION_BITS));
    taps->first[i] = first;
    taps->count[i] = last - first;
  }
  free(shares);
  return allocated;
}

static void free_taps(Taps *taps) {
  free(taps->first), free(taps->count), free(taps->weights), free(taps->start), free(taps->halves),
      free(taps->changes), free(taps->paired);
}

/* Premultiplies `count` RGBA pixels, rounded as Pillow does; returns the AND of `opaque` and all alphas. */
FOR_EACH_CPU static uint32_t premultiply(const uint8_t *restrict row, int count, uint8_t *restrict result,
                                         uint32_t opaque) {
  for (int x = 0; x < count; ++x) {
    uint32_t pixel;
    memcpy(&pixel, row + 4 * x, 4);
    const uint32_t alpha = pixel >> 24;
    uint32_t red_blue = (pixel & 0xFF00FF) * alpha + 0x800080, green = (pixel >> 8 & 0xFF) * alpha + 0x80;
    red_blue = (red_blue + (red_blue >> 8 & 0xFF00FF)) >> 8 & 0xFF00FF;
    green = (green + (green >> 8)) & 0xFF00;
    opaque &= alpha;
    pixel = red_blue | green | alpha << 24;
    memcpy(result + 4 * x, &pixel, 4);
  }
  return opaque;
}

#include "scale_wide.h"

#ifdef HAS_AVX2
#define AVX2 __attribute__((target("avx2")))

/* Fills `quads`, `start` and `halves`; false where memory runs out. A quad of the inputs of two pixels of
   the result has 64 halves of weights: the upper ones of the quad's first two inputs, four times for each pixel of the
   result; the lower ones; and those of the other two inputs. */
static int split_taps(Taps *taps, int from, int to) {
  int longest = 0;
  for (int i = 0; i < to; ++i) longest = greatest(longest, taps->count[i]);
  taps->quads = (longest + QUAD - 1) / QUAD;
  const int pairs = (to + 1) / 2;
  taps->start = malloc(2 * pairs * sizeof(int));
  taps->halves = calloc((size_t)pairs * taps->quads * 64, sizeof(int16_t));
  taps->changes = malloc((size_t)from * 4 / PART + 1);
  if (!taps->start || !taps->halves || !taps->changes) return 0;
  for (int i = 0; i < 2 * pairs; ++i) {
    const int own = least(i, to - 1), first = taps->first[own];
    taps->start[i] = greatest(0, least(first, from - QUAD * taps->quads));
    for (int x = 0; x < taps->count[own]; ++x) {
      const int32_t weight = taps->weights[(size_t)own * taps->most + x];
      const int at = first - taps->start[i] + x;
      int16_t *quad = taps->halves + ((size_t)(i / 2) * taps->quads + at / QUAD) * 64;
      int16_t *upper = quad + at % QUAD / 2 * 32 + i % 2 * 8 + at % 2, *lower = upper + 16;
      for (int j = 0; j < 8; j += 2) {
        upper[j] = (int16_t)(weight >> LOWER_BITS), lower[j] = (int16_t)(weight & ((1 << LOWER_BITS) - 1));
      }
    }
  }
  return 1;
}

/* Sums of products with the upper and lower halves of weights. The fastest product is of 16 bits, two at a time. */
typedef struct {
  __m256i upper, lower;
} Sums;

AVX2 static inline void add_products(Sums *sums, __m256i pairs, __m256i upper, __m256i lower) {
  sums->upper = _mm256_add_epi32(sums->upper, _mm256_madd_epi16(pairs, upper));
  sums->lower = _mm256_add_epi32(sums->lower, _mm256_madd_epi16(pairs, lower));
}

/* Sums, rounded and shifted. */
AVX2 static inline __m256i shifted(Sums sums) {
  const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(sums.upper, LOWER_BITS), sums.lower);
  return _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(HALF)), PRECISION_BITS);
}

/* Fills `count` pixels of four bytes with the first. */
AVX2 static void repeat(const uint8_t *pixel, uint8_t *result, int count) {
  uint32_t word;
  memcpy(&word, pixel, 4);
  for (int x = 0; x < count; ++x) memcpy(result + 4 * (size_t)x, &word, 4);
}

/* Fills `changes`: for each PART of rows of `length` bytes, whether a byte differs from that of the next pixel. */
AVX2 static void find_steps(const uint8_t *const rows[], int step, size_t length, uint8_t *changes) {
  for (size_t x = 0; x < length; x += PART) {
    __m256i differ = _mm256_setzero_si256();
    for (int lane = 0; lane < LANES; ++lane) {
      const __m256i own = _mm256_loadu_si256((const __m256i *)(rows[lane] + x));
      const __m256i next = _mm256_loadu_si256((const __m256i *)(rows[lane] + x + step));
      differ = _mm256_or_si256(differ, _mm256_xor_si256(own, next));
    }
    changes[x / PART] = !_mm256_testz_si256(differ, differ);
  }
}

/* The weighted sums of `quads` quads that begin at `one` and of those at `other`. */
AVX2 static inline __m256i mix_pixels(const uint8_t *one, const uint8_t *other, int step, const __m256i *weights,
                                      int quads, __m256i pair, __m256i next_pair) {
  Sums sums = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (int quad = 0; quad < quads; ++quad, weights += 4, one += QUAD * step, other += QUAD * step) {
    const __m256i first = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)one));
    const __m256i both = _mm256_inserti128_si256(first, _mm_loadu_si128((const __m128i *)other), 1);
    add_products(&sums, _mm256_shuffle_epi8(both, pair), _mm256_loadu_si256(weights), _mm256_loadu_si256(weights + 1));
    add_products(&sums, _mm256_shuffle_epi8(both, next_pair), _mm256_loadu_si256(weights + 2),
                 _mm256_loadu_si256(weights + 3));
  }
  return shifted(sums);
}

/* `scale_lanes`; reads up to 4 bytes after the last quad and PART + `step` after the rows of `length` bytes, and writes
   one pixel more where `to` is odd. Where all inputs are equal, as in most of a logo, they are the result. */
AVX2 static void scale_lanes_avx2(const uint8_t *const rows[], int step, size_t length, const Taps *taps, int to,
                                  uint8_t *const results[]) {
  const __m128i of_3 = _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
  const __m128i of_4 = _mm_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1);
  const __m256i pair = _mm256_broadcastsi128_si256(step == 3 ? of_3 : of_4); /* channels of two pixels side by side */
  const __m256i next_pair = _mm256_or_si256(_mm256_add_epi8(pair, _mm256_set1_epi8((char)(2 * step))),
                                            _mm256_cmpgt_epi8(_mm256_setzero_si256(), pair));
  const size_t window = (size_t)(taps->quads * QUAD - 1) * step; /* bytes that are compared with the next pixel */
  size_t flat_end = 0;
  find_steps(rows, step, length, taps->changes);
  for (int i = 0; i < to; i += 2) {
    const size_t first = (size_t)taps->start[i] * step, second = (size_t)taps->start[i + 1] * step;
    if (first + window > flat_end) {
      for (flat_end = first / PART * PART; flat_end < length && !taps->changes[flat_end / PART];) flat_end += PART;
    }
    int end = i;
    while (end < to && taps->start[end] * (size_t)step + window <= flat_end) ++end;
    if (end < to) end &= ~1;
    if (end > i) {
      for (int lane = 0; lane < LANES; ++lane) repeat(rows[lane] + first, results[lane] + 4 * (size_t)i, end - i);
      i = end - 2;
      continue;
    }
    const __m256i *weights = (const __m256i *)taps->halves + (size_t)i / 2 * taps->quads * 4;
    __m256i numbers[LANES];
#pragma GCC unroll 4
    for (int lane = 0; lane < LANES; ++lane) {
      const uint8_t *one = rows[lane] + first, *other = rows[lane] + second;
      numbers[lane] = taps->quads == 1 ? mix_pixels(one, other, step, weights, 1, pair, next_pair)
                                       : mix_pixels(one, other, step, weights, taps->quads, pair, next_pair);
    }
    const __m256i pixels = _mm256_packus_epi16(_mm256_packus_epi32(numbers[0], numbers[1]),
                                               _mm256_packus_epi32(numbers[2], numbers[3]));
    const __m128i one = _mm256_castsi256_si128(pixels), other = _mm256_extracti128_si256(pixels, 1);
    const __m128i of_two[] = {_mm_unpacklo_epi32(one, other), _mm_unpackhi_epi32(one, other)};
    for (int lane = 0; lane < LANES; ++lane) {
      const int64_t two = lane % 2 ? _mm_extract_epi64(of_two[lane / 2], 1) : _mm_cvtsi128_si64(of_two[lane / 2]);
      memcpy(results[lane] + 4 * (size_t)i, &two, 8);
    }
  }
}

/* `mix_rows`; `weights` has a 0 more where `count` is odd. */
AVX2 static void mix_rows_avx2(const uint8_t *const *rows, const int32_t *weights, int count, size_t length,
                               uint8_t *restrict result) {
  const __m256i zero = _mm256_setzero_si256(), ones = _mm256_set1_epi32((1 << LOWER_BITS) - 1);
  for (size_t x = 0; x < length; x += PART) {
    const __m256i top = _mm256_loadu_si256((const __m256i *)(rows[0] + x));
    __m256i differ = zero;
    for (int row = 1; row < count; ++row) {
      differ = _mm256_or_si256(differ, _mm256_xor_si256(top, _mm256_loadu_si256((const __m256i *)(rows[row] + x))));
    }
    if (_mm256_testz_si256(differ, differ)) {
      _mm256_storeu_si256((__m256i *)(result + x), top);
      continue;
    }
    Sums sums[4];
    for (int i = 0; i < 4; ++i) sums[i].upper = sums[i].lower = zero;
    for (int row = 0; row < count; row += 2) {
      const __m256i one = _mm256_loadu_si256((const __m256i *)(rows[row] + x));
      const __m256i other = _mm256_loadu_si256((const __m256i *)(rows[least(row + 1, count - 1)] + x));
      const __m256i weight = _mm256_set1_epi32(weights[row]), next = _mm256_set1_epi32(weights[row + 1]);
      const __m256i upper = _mm256_or_si256(_mm256_srli_epi32(weight, LOWER_BITS),
                                            _mm256_slli_epi32(_mm256_srli_epi32(next, LOWER_BITS), 16));
      const __m256i lower = _mm256_or_si256(_mm256_and_si256(weight, ones),
                                            _mm256_slli_epi32(_mm256_and_si256(next, ones), 16));
      const __m256i low = _mm256_unpacklo_epi8(one, other), high = _mm256_unpackhi_epi8(one, other);
      add_products(sums, _mm256_unpacklo_epi8(low, zero), upper, lower);
      add_products(sums + 1, _mm256_unpackhi_epi8(low, zero), upper, lower);
      add_products(sums + 2, _mm256_unpacklo_epi8(high, zero), upper, lower);
      add_products(sums + 3, _mm256_unpackhi_epi8(high, zero), upper, lower);
    }
    const __m256i left = _mm256_packus_epi32(shifted(sums[0]), shifted(sums[1]));
    const __m256i right = _mm256_packus_epi32(shifted(sums[2]), shifted(sums[3]));
    _mm256_storeu_si256((__m256i *)(result + x), _mm256_packus_epi16(left, right));
  }
}

/* Fills `ink`, (to_height, to_width, 4); premultiplies first where `straight`. `pitch`: bytes from a row of pixels to
   the next. Returns 1 where all pixels are opaque, else 0; -1 where memory runs out.

   Rows are scaled before columns, except for images that lose more than twice as much height as width: Pillow's order.
   A ring holds only the rows that the next row of the result needs, so that they stay in the first cache. */
static int scale(const uint8_t *pixels, size_t pitch, int step, int straight, int width, int height,
                 const Taps *across, const Taps *down, int to_width, int to_height, uint8_t *ink) {
  const int rows_first = !(height > to_height && height - to_height > 2 * (width - to_width));
  const int ring_rows = down->most + LANES;
  const size_t row_bytes = (size_t)width * step, ink_bytes = 4 * (size_t)to_width;
  const size_t beyond = (size_t)greatest(0, QUAD * across->quads - width) * step + PART + 4; /* is read after a row */
  const size_t line_bytes = row_bytes + beyond + PART, scaled_bytes = (ink_bytes + PART - 1) / PART * PART;
  const size_t length = rows_first ? scaled_bytes : (row_bytes + PART - 1) / PART * PART;
  uint8_t *ring = calloc(ring_rows + 1, length), *lines = calloc(LANES + 1, line_bytes), *scaled = malloc(scaled_bytes);
  uint8_t *mixed = lines + LANES * line_bytes, *unused = ring + ring_rows * length;
  const uint8_t **rows = malloc(sizeof(uint8_t *) * down->most);
  uint32_t opaque = 255;
  const int allocated = ring && lines && scaled && rows;
  for (int i = 0, next = 0; allocated && i < to_height; ++i) {
    const int first = down->first[i], end = first + down->count[i];
    while (next < end) {
      const uint8_t *lanes[LANES];
      uint8_t *slots[LANES];
      for (int lane = 0; lane < (rows_first ? LANES : 1); ++lane) { /* below the last row: that row, unused */
        const int y = least(next + lane, height - 1);
        const uint8_t *row = pixels + (size_t)y * pitch;
        slots[lane] = next + lane < height ? ring + (next + lane) % ring_rows * length : unused;
        uint8_t *line = rows_first ? lines + lane * line_bytes : slots[lane];
        lanes[lane] = line;
        if (straight) opaque = premultiply(row, width, line, opaque);
        else if (rows_first && (size_t)(height - 1 - y) * pitch >= beyond) lanes[lane] = row;
        else memcpy(line, row, row_bytes);
      }
      if (!rows_first) ++next;
      else scale_lanes_avx2(lanes, step, row_bytes, across, to_width, slots), next += LANES;
    }
    for (int row = first; row < end; ++row) rows[row - first] = ring + row % ring_rows * length;
    const int32_t *weights = down->weights + (size_t)i * down->most;
    mix_rows_avx2(rows, weights, end - first, length, rows_first ? scaled : mixed);
    if (!rows_first) {
      const uint8_t *lanes[LANES] = {mixed, mixed, mixed, mixed};
      uint8_t *slots[LANES] = {scaled, scaled, scaled, scaled};
      scale_lanes_avx2(lanes, step, row_bytes, across, to_width, slots);
    }
    memcpy(ink + i * ink_bytes, scaled, ink_bytes);
  }
  free(ring), free(lines), free(scaled), free(rows);
  return allocated ? opaque == 255 : -1;
}
#endif

/* Scales box_width x box_height pixels to `ink`, (to_height, to_width, 4); returns the result of `scale`. */
static int scale_box(const uint8_t *pixels, size_t pitch, int step, int straight, int width, int height,
                     double box_width, double box_height, int to_width, int to_height, uint8_t *ink) {
  Taps across = {0}, down = {0};
  int opaque = -1;
  if (step == 4 && box_width == to_width && box_height == to_height) { /* scaling would change nothing */
    uint32_t alphas = 255;
    for (int y = 0; y < to_height; ++y, pixels += pitch, ink += (size_t)to_width * 4) {
      if (straight) alphas = premultiply(pixels, to_width, ink, alphas);
      else memcpy(ink, pixels, (size_t)to_width * 4);
    }
    return alphas == 255;
  }
  const int made = make_taps(&across, width, box_width, to_width) && make_taps(&down, height, box_height, to_height);
#ifdef HAS_AVX2
  if (HAS_AVX2 && greatest(across.most, down.most) <= FLAT_TAPS) {
    if (made && split_taps(&across, width, to_width)) {
      opaque = scale(pixels, pitch, step, straight, width, height, &across, &down, to_width, to_height, ink);
    }
  } else
#endif
    if (made && pair_taps(&across, to_width, step)) {
      opaque = scale_wide(pixels, pitch, step, straight, width, height, &across, &down, to_width, to_height, ink);
    }
  free_taps(&across), free_taps(&down);
  return opaque;
}
