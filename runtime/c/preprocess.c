/* preprocess.py in C: the same bytes, several times faster. Has no dependencies; build_c.py compiles it.

   The resampling is Pillow 13's antialiased triangle filter in fixed point, along one axis after the other, each pass
   rounded to 8 bits. Compile it with -O3 and -ffp-contract=off: fused multiply-adds would round the weights
   differently. */

#include "preprocess.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "pixels are read as little-endian words; without this file the runtime uses Pillow"
#endif

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

enum { PRECISION_BITS = 22, HALF = 1 << (PRECISION_BITS - 1) };
enum { LANES = 4 };   /* rows that are scaled together */
enum { CHUNK = 256 }; /* pixels of each row at a time, or as many as one output pixel needs */

/* The inputs of each pixel of a scaled axis: `count` pixels from `first` on, with weights of sum 2^22. */
typedef struct {
  int most, *first, *count;
  int32_t *weights; /* `most` for each */
  int32_t *paired;  /* those for two pixels at a time, repeated for every byte of a pixel: `pairs` times 8 for each */
  int pairs;
} Taps;

/* Memory for `pixels` pixels of LANES rows: as bytes, and as numbers with `pitch` from a row to the next. */
typedef struct {
  int pixels;
  size_t pitch;
  uint8_t *row;
  int32_t *wide;
} Chunk;

static int least(int one, int other) { return one < other ? one : other; }
static int greatest(int one, int other) { return one > other ? one : other; }

/* The taps from the first `box` of `from` pixels to `to` pixels; false where memory runs out. */
static int make_taps(Taps *taps, int from, double box, int to) {
  const double scale = box / to, support = fmax(scale, 1);
  taps->most = (int)ceil(support) * 2 + 1;
  taps->first = malloc(sizeof(int) * to);
  taps->count = malloc(sizeof(int) * to);
  taps->weights = malloc(sizeof(int32_t) * to * taps->most);
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

/* Fills `paired` for pixels of `step` bytes; false where memory runs out. */
static int pair_taps(Taps *taps, int to, int step) {
  int longest = 0;
  for (int i = 0; i < to; ++i) longest = greatest(longest, taps->count[i]);
  taps->pairs = (longest + 1) / 2;
  taps->paired = calloc((size_t)to * taps->pairs * 8, sizeof(int32_t));
  for (int i = 0; taps->paired && i < to; ++i) {
    for (int x = 0; x < taps->count[i]; ++x) {
      int32_t *pair = taps->paired + ((size_t)i * taps->pairs + x / 2) * 8;
      for (int j = 0; j < step; ++j) pair[x % 2 * step + j] = taps->weights[(size_t)i * taps->most + x];
    }
  }
  return taps->paired != NULL;
}

static void free_taps(Taps *taps) { free(taps->first), free(taps->count), free(taps->weights), free(taps->paired); }

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

FOR_EACH_CPU static void widen(const uint8_t *restrict bytes, size_t count, int32_t *restrict numbers) {
  for (size_t i = 0; i < count; ++i) numbers[i] = bytes[i];
}

FOR_EACH_CPU static void narrow(const int32_t *restrict numbers, size_t count, uint8_t *restrict bytes) {
  for (size_t i = 0; i < count; ++i) bytes[i] = (uint8_t)numbers[i];
}

/* Sums of products, rounded, shifted and limited to 255: where very many weights were rounded up they may be above, but
   never below 0, as no weight is. Vectors are an extension of gcc and clang; others, such as MSVC, take the loops. */
#if (defined(__GNUC__) || defined(__clang__)) && !defined(LOGO_EDGE_NO_VECTORS)

/* Red, green, blue and alpha as numbers: of one pixel, and of two. */
typedef int32_t Pixel __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t Pair __attribute__((vector_size(32), aligned(4), may_alias));

#define HALVES ((Pair){HALF, HALF, HALF, HALF, HALF, HALF, HALF, HALF})
#define CLIPPED(sums) (((sums) & ~((sums) > 255)) | (((sums) > 255) & 255))

/* The sums of two pixels at a time as the sum of one; where a pixel has three bytes, the fourth is undefined. */
static inline void store(Pair pairs, int step, int32_t *result) {
  int32_t sums[8];
  *(Pair *)sums = pairs;
  const Pixel sum = (*(const Pixel *)sums + *(const Pixel *)(sums + step) + HALF) >> PRECISION_BITS;
  *(Pixel *)result = (sum & ~(sum > 255)) | ((sum > 255) & 255);
}

/* Scales the pixels from `i` to `end` of the rows in the chunk, which begins at pixel `start`. */
FOR_EACH_CPU static void scale_lanes(const Chunk *chunk, int step, int start, const Taps *taps, int i, int end,
                                     int32_t *const results[]) {
  const size_t pitch = chunk->pitch;
  for (; i < end; ++i) {
    const int32_t *wide = chunk->wide + (size_t)(taps->first[i] - start) * step;
    const int32_t *weights = taps->paired + (size_t)i * taps->pairs * 8;
    Pair sums[LANES] = {{0}};
    for (int pair = 0; pair < taps->pairs; ++pair, wide += 2 * step, weights += 8) { /* 0 beyond the last pixel */
      const Pair weight = *(const Pair *)weights;
      for (int lane = 0; lane < LANES; ++lane) sums[lane] += *(const Pair *)(wide + lane * pitch) * weight;
    }
    for (int lane = 0; lane < LANES; ++lane) store(sums[lane], step, results[lane] + 4 * (size_t)i);
  }
}

/* The weighted sum of `count` rows of `length` numbers; `length` is a multiple of 8. */
FOR_EACH_CPU static void mix_rows(const int32_t *const *rows, const int32_t *weights, int count, size_t length,
                                  int32_t *restrict result) {
  for (size_t x = 0; x < length; x += 8) {
    Pair sums = HALVES;
    for (int row = 0; row < count; ++row) sums += *(const Pair *)(rows[row] + x) * weights[row];
    *(Pair *)(result + x) = CLIPPED(sums >> PRECISION_BITS);
  }
}

#else

static int32_t clipped(int32_t sum) { return least(sum >> PRECISION_BITS, 255); }

/* Scales the pixels from `i` to `end` of the rows in the chunk, which begins at pixel `start`. */
static void scale_lanes(const Chunk *chunk, int step, int start, const Taps *taps, int i, int end,
                        int32_t *const results[]) {
  for (; i < end; ++i) {
    for (int lane = 0; lane < LANES; ++lane) {
      const int32_t *wide = chunk->wide + lane * chunk->pitch + (size_t)(taps->first[i] - start) * step;
      const int32_t *weights = taps->paired + (size_t)i * taps->pairs * 8;
      int32_t sums[8] = {0};
      for (int pair = 0; pair < taps->pairs; ++pair, wide += 2 * step, weights += 8) { /* 0 beyond the last pixel */
        for (int j = 0; j < 8; ++j) sums[j] += wide[j] * weights[j];
      }
      for (int j = 0; j < 4; ++j) results[lane][4 * (size_t)i + j] = clipped(sums[j] + sums[step + j] + HALF);
    }
  }
}

/* The weighted sum of `count` rows of `length` numbers. */
static void mix_rows(const int32_t *const *rows, const int32_t *weights, int count, size_t length,
                     int32_t *restrict result) {
  for (size_t x = 0; x < length; ++x) {
    int32_t sum = HALF;
    for (int row = 0; row < count; ++row) sum += rows[row][x] * weights[row];
    result[x] = clipped(sum);
  }
}

#endif

/* Scales LANES rows to `to` pixels, as numbers; returns the result of premultiply. */
static uint32_t scale_rows(const uint8_t *const rows[], int straight, int step, const Taps *taps, int to,
                           const Chunk *chunk, int32_t *const results[], uint32_t opaque) {
  for (int i = 0, end = 0; i < to; i = end) {
    const int start = taps->first[i];
    while (end < to && taps->first[end] + taps->count[end] - start <= chunk->pixels) ++end;
    const int count = taps->first[end - 1] + taps->count[end - 1] - start;
    for (int lane = 0; lane < LANES; ++lane) {
      const uint8_t *row = rows[lane] + (size_t)start * step;
      if (straight) opaque = premultiply(row, count, chunk->row, opaque), row = chunk->row;
      widen(row, (size_t)count * step, chunk->wide + lane * chunk->pitch);
    }
    scale_lanes(chunk, step, start, taps, i, end, results);
  }
  return opaque;
}

/* Fills `ink`, (to_height, to_width, 4); premultiplies first where `straight`. `pitch`: bytes from a row of pixels to the
   next. Returns 1 where all pixels are opaque, else 0; -1 where memory runs out.

   Rows are scaled before columns, except for images that lose more than twice as much height as width: Pillow's order.
   A ring holds only the rows that the next row of the result needs, so that they stay in the first cache. */
static int scale(const uint8_t *pixels, size_t pitch, int step, int straight, int width, int height,
                 const Taps *across, const Taps *down, int to_width, int to_height, uint8_t *ink) {
  const int rows_first = !(height > to_height && height - to_height > 2 * (width - to_width));
  const int ring_rows = down->most + LANES;
  const size_t row_bytes = (size_t)width * step;
  const size_t length = ((rows_first ? 4 * (size_t)to_width : row_bytes) + 7) / 8 * 8;
  const int pixels_of_chunk = greatest(CHUNK, across->most);
  int32_t *ring = calloc(ring_rows * length, 4), *mixed = malloc(4 * (length + 4 * (size_t)to_width));
  int32_t *unused = malloc(16 * (size_t)to_width);
  uint32_t opaque = 255;
  uint8_t *line = malloc(4 * (size_t)width);
  const int32_t **rows = malloc(sizeof(int32_t *) * down->most);
  Chunk chunk = {pixels_of_chunk, 4 * ((size_t)pixels_of_chunk + across->most + 2), NULL, NULL};
  chunk.row = malloc(4 * (size_t)chunk.pixels);
  chunk.wide = calloc(LANES * chunk.pitch, 4);
  const int allocated = ring && mixed && unused && line && rows && chunk.row && chunk.wide;
  for (int i = 0, next = 0; allocated && i < to_height; ++i) {
    const int first = down->first[i], end = first + down->count[i];
    while (next < end) {
      if (rows_first) {
        const uint8_t *lanes[LANES];
        int32_t *slots[LANES];
        for (int lane = 0; lane < LANES; ++lane) { /* lanes below the last row scale it again, unused */
          lanes[lane] = pixels + (size_t)least(next + lane, height - 1) * pitch;
          slots[lane] = next + lane < height ? ring + (next + lane) % ring_rows * length : unused;
        }
        opaque = scale_rows(lanes, straight, step, across, to_width, &chunk, slots, opaque);
        next += LANES;
      } else {
        const uint8_t *row = pixels + (size_t)next * pitch;
        if (straight) opaque = premultiply(row, width, line, opaque), row = line;
        widen(row, row_bytes, ring + next % ring_rows * length);
        ++next;
      }
    }
    for (int row = first; row < end; ++row) rows[row - first] = ring + row % ring_rows * length;
    mix_rows(rows, down->weights + (size_t)i * down->most, end - first, length, mixed);
    if (!rows_first) {
      const uint8_t *lanes[LANES];
      int32_t *results[LANES];
      for (int lane = 0; lane < LANES; ++lane) lanes[lane] = line, results[lane] = lane ? unused : mixed;
      narrow(mixed, row_bytes, line);
      scale_rows(lanes, 0, step, across, to_width, &chunk, results, opaque);
    }
    narrow(mixed, 4 * (size_t)to_width, ink + (size_t)i * to_width * 4);
  }
  free(ring), free(mixed), free(unused), free(line), free(rows), free(chunk.row), free(chunk.wide);
  return allocated ? opaque == 255 : -1;
}

/* The median colour of an opaque image's border; each corner counts twice. */
static void border_colour(const uint8_t *ink, int width, int height, uint8_t colour[3]) {
  for (int channel = 0; channel < 3; ++channel) {
    int counts[256] = {0}, seen = 0, value = -1, middle[2];
    const uint8_t *top = ink + channel, *bottom = top + (size_t)(height - 1) * width * 4;
    const uint8_t *right = top + (size_t)(width - 1) * 4;
    for (int x = 0; x < width; ++x) ++counts[top[4 * x]], ++counts[bottom[4 * x]];
    for (int y = 0; y < height; ++y) ++counts[top[(size_t)4 * y * width]], ++counts[right[(size_t)4 * y * width]];
    for (int half = 0; half < 2; ++half) {
      while (seen < width + height + half) seen += counts[++value];
      middle[half] = value;
    }
    colour[channel] = (uint8_t)((middle[0] + middle[1]) / 2);
  }
}

/* The dark background where the ink is nearly white, else the light one. */
FOR_EACH_CPU static const uint8_t *pick_background(const uint8_t *ink, int count, const uint8_t *light,
                                                   const uint8_t *dark, double dark_above) {
  uint32_t red = 0, green = 0, blue = 0, alpha = 0; /* wide enough for 4096 x 4096 pixels of 255 */
  for (int i = 0; i < count; ++i) {
    uint32_t pixel;
    memcpy(&pixel, ink + 4 * (size_t)i, 4);
    red += pixel & 255, green += pixel >> 8 & 255, blue += pixel >> 16 & 255, alpha += pixel >> 24;
  }
  const double weighted = (double)(255 * (299 * (int64_t)red + 587 * (int64_t)green + 114 * (int64_t)blue));
  return weighted > (double)(1000 * (int64_t)alpha) * dark_above ? dark : light;
}

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
  if (make_taps(&across, width, box_width, to_width) && pair_taps(&across, to_width, step) &&
      make_taps(&down, height, box_height, to_height)) {
    opaque = scale(pixels, pitch, step, straight, width, height, &across, &down, to_width, to_height, ink);
  }
  free_taps(&across), free_taps(&down);
  return opaque;
}

/* Composites `count` premultiplied RGBA pixels on a background; they become opaque. */
FOR_EACH_CPU static void composite(uint8_t *ink, size_t count, const uint8_t background[3]) {
  const uint32_t red = background[0], green = background[1], blue = background[2];
  for (size_t i = 0; i < count; ++i) {
    uint32_t pixel;
    memcpy(&pixel, ink + 4 * i, 4);
    const uint32_t clear = 255 - (pixel >> 24);
    pixel += (clear * red + 127) / 255 | (clear * green + 127) / 255 << 8 | (clear * blue + 127) / 255 << 16;
    pixel |= 0xFF000000;
    memcpy(ink + 4 * i, &pixel, 4);
  }
}

enum { REACH = 6 };  /* pixels to the farthest neighbour that a detail plane reads: the margin around an image */
enum { BLOCK = 16 }; /* columns, more than REACH, that are skipped together where no colour changes around them */

static inline int16_t smaller(int16_t one, int16_t other) { return one < other ? one : other; }
static inline int16_t larger(int16_t one, int16_t other) { return one > other ? one : other; }
static inline int16_t magnitude(int16_t number) { return larger(number, (int16_t)-number); }

/* -1 where `slack` is not below 0, else 0. All steps here use 16 bits, because wider ones are slower. */
static inline int16_t none_below_0(int16_t slack) { return (int16_t)~(slack >> 15); }

/* Whether eight steps of the 3 x 3 sums, `apart` from one to the next, are small and of one sign; -1 or 0.

   The sign of the change does not matter: where the change is 27, one of its eight steps is more than 3. */
static inline int16_t is_ramp(const int16_t *sums, ptrdiff_t apart) {
/* no loop, which would not be vectorised */
#define RISE(step) ((int16_t)(sums[(step + 1) * apart] - sums[step * apart]))
#define OF_ALL(pick) \
  pick(pick(pick(RISE(-4), RISE(-3)), pick(RISE(-2), RISE(-1))), pick(pick(RISE(0), RISE(1)), pick(RISE(2), RISE(3))))
  const int16_t lowest = OF_ALL(smaller), highest = OF_ALL(larger);
#undef OF_ALL
#undef RISE
  const int16_t change = magnitude((int16_t)(sums[4 * apart] - sums[-4 * apart]));
  const int16_t least = larger(lowest, (int16_t)-highest), most = larger(highest, (int16_t)-lowest);
  const int16_t bound = larger((int16_t)(5 * change), 200), scaled = (int16_t)(16 * smaller(most, 90));
  const int16_t slack = smaller((int16_t)(change - 27), (int16_t)(least + 3));
  return none_below_0(smaller(slack, smaller((int16_t)(89 - most), (int16_t)(bound - scaled))));
}

/* Whether the colour changes smoothly between the neighbours `apart` away; -1 or 0. Channels are `channel` apart. */
static inline int16_t is_fade(const int16_t *pixel, ptrdiff_t apart, ptrdiff_t channel, int16_t least, int16_t most) {
  int16_t change = 0, bend = 0;
  for (int i = 0; i < 3; ++i, pixel += channel) {
    change = larger(change, magnitude((int16_t)(pixel[apart] - pixel[-apart])));
    bend = larger(bend, magnitude((int16_t)(pixel[apart] + pixel[-apart] - 2 * pixel[0])));
  }
  const int16_t straight = (int16_t)(larger(change, 4) - 3 * bend);
  return none_below_0(smaller(straight, smaller((int16_t)(change - least), (int16_t)(most - change))));
}

/* Fills `count` pixels of `planes`; `pixel` and `sums` point to the first in a framed image and its 3 x 3 sums. */
FOR_EACH_CPU static void detail_span(const int16_t *restrict pixel, const int16_t *restrict sums, ptrdiff_t channel,
                                     ptrdiff_t row, int count, int16_t *restrict work, uint8_t *restrict planes) {
  int16_t *near = work, *far = work + count, *ramp = work + 2 * count, *edge = work + 3 * count;
  for (int x = 0; x < count; ++x) {
    near[x] = is_fade(pixel + x, 2, channel, 3, 24) | is_fade(pixel + x, 2 * row, channel, 3, 24);
    far[x] = is_fade(pixel + x, 6, channel, 4, 48) | is_fade(pixel + x, 6 * row, channel, 4, 48);
  }
  memset(ramp, 0, count * sizeof(int16_t));
  for (int i = 0; i < 3; ++i, sums += channel) {
    for (int x = 0; x < count; ++x) ramp[x] |= is_ramp(sums + x, 1);
    for (int x = 0; x < count; ++x) ramp[x] |= is_ramp(sums + x, row);
  }
  for (int x = 0; x < count; ++x) {
    int16_t most = 0;
    for (int i = 0; i < 3; ++i) {
      const int16_t *p = pixel + i * channel + x;
      most = larger(most, magnitude((int16_t)(4 * p[0] - p[-1] - p[1] - p[-row] - p[row])));
    }
    edge[x] = smaller(most, 255);
  }
  for (int x = 0; x < count; ++x) {
    const uint32_t all = (uint32_t)((near[x] & 255) | (far[x] & 255) << 8 | (ramp[x] & 255) << 16);
    const uint32_t word = all | (uint32_t)edge[x] << 24;
    memcpy(planes + 4 * (size_t)x, &word, 4);
  }
}

/* A row of RGBA as numbers, a channel at each `pitch`; the first and last pixel are repeated at its ends. */
FOR_EACH_CPU static void frame_row(const uint8_t *restrict ink, int width, ptrdiff_t pitch, int16_t *restrict framed) {
  for (int channel = 0; channel < 3; ++channel, framed += pitch) {
    for (int x = 0; x < width; ++x) {
      uint32_t pixel;
      memcpy(&pixel, ink + 4 * (size_t)x, 4);
      framed[REACH + x] = (int16_t)(pixel >> 8 * channel & 255);
    }
    for (int x = 0; x < REACH; ++x) framed[x] = framed[REACH];
    for (ptrdiff_t x = REACH + width; x < pitch; ++x) framed[x] = framed[REACH + width - 1];
  }
}

/* The 3 x 3 sums of a framed row, except its first and last number; `work` holds a row. */
FOR_EACH_CPU static void sum_row(const int16_t *restrict framed, ptrdiff_t row, int16_t *restrict work,
                                 int16_t *restrict sums) {
  for (ptrdiff_t x = 0; x < row; ++x) work[x] = (int16_t)(framed[x - row] + framed[x] + framed[x + row]);
  for (ptrdiff_t x = 1; x < row - 1; ++x) sums[x] = (int16_t)(work[x - 1] + work[x] + work[x + 1]);
}

/* For each block of a row whether one of its pixels differs from its left or upper neighbour; `work` holds a row. */
FOR_EACH_CPU static void find_changes(const int16_t *restrict pixel, ptrdiff_t channel, ptrdiff_t row, int blocks,
                                      int16_t *restrict work, uint8_t *restrict changes) {
  memset(work, 0, (size_t)blocks * BLOCK * sizeof(int16_t));
  for (int i = 0; i < 3; ++i, pixel += channel) {
    for (int x = 0; x < blocks * BLOCK; ++x) {
      work[x] |= (int16_t)((pixel[x] ^ pixel[x - 1]) | (pixel[x] ^ pixel[x - row]));
    }
  }
  for (int block = 0; block < blocks; ++block) {
    uint64_t words[BLOCK / 4];
    memcpy(words, work + block * BLOCK, sizeof words);
    changes[block] = (words[0] | words[1] | words[2] | words[3]) != 0;
  }
}

/* Fills `planes`, (height, width, 4), from `ink`, (height, width, 4) opaque; false where memory runs out. They are 0
   where all pixels that they read are equal, as in most of a logo: such blocks are skipped. */
static int detail_planes(const uint8_t *ink, int width, int height, uint8_t *planes) {
  const int blocks = (width + BLOCK - 1) / BLOCK, rows = height + 2 * REACH;
  const ptrdiff_t channel = blocks * BLOCK + 2 * REACH, row = 3 * channel;
  int16_t *framed = malloc(rows * row * sizeof(int16_t)), *sums = malloc(rows * row * sizeof(int16_t));
  int16_t *work = malloc((row + LOGO_EDGE_DETAIL_PLANES * (size_t)width) * sizeof(int16_t));
  uint8_t *changes = malloc((size_t)height * blocks), *around = malloc(blocks);
  const int allocated = framed && sums && work && changes && around;
  for (int y = 0; allocated && y < rows; ++y) {
    const int inside = least(greatest(y - REACH, 0), height - 1);
    frame_row(ink + 4 * (size_t)width * inside, width, channel, framed + y * row);
  }
  for (int y = 0; allocated && y < height; ++y) {
    find_changes(framed + (y + REACH) * row + REACH, channel, row, blocks, work,
                 changes + (size_t)y * blocks);
  }
  memset(planes, 0, allocated ? 4 * (size_t)width * height : 0);
  for (int y = 0, summed = 1; allocated && y < height; ++y) {
    memset(around, 0, blocks);
    for (int other = greatest(y - REACH, 0); other <= least(y + REACH, height - 1); ++other) {
      for (int block = 0; block < blocks; ++block) around[block] |= changes[(size_t)other * blocks + block];
    }
    for (int block = 0, end; block < blocks; block = end + 1) {
#define IS_FLAT(at) !(around[at] | around[greatest((at) - 1, 0)] | around[least((at) + 1, blocks - 1)])
      for (end = block; end < blocks && !IS_FLAT(end); ++end) continue;
#undef IS_FLAT
      if (end == block) continue;
      for (summed = greatest(summed, y + REACH - 4); summed <= y + REACH + 4; ++summed) {
        sum_row(framed + summed * row, row, work, sums + summed * row);
      }
      const int x = block * BLOCK, count = least(end * BLOCK, width) - x;
      const ptrdiff_t first = (y + REACH) * row + REACH + x;
      detail_span(framed + first, sums + first, channel, row, count, work, planes + 4 * ((size_t)y * width + x));
    }
  }
  free(framed), free(sums), free(work), free(changes), free(around);
  return allocated;
}

/* Puts the opaque ink, and its planes if any, in the middle of the square, with the background around it. */
static void put(const uint8_t *ink, const uint8_t *planes, int width, int height, const uint8_t background[3], int size,
                uint8_t *square) {
  const int channels = planes ? 3 + LOGO_EDGE_DETAIL_PLANES : 3;
  if (width != height) {
    memset(square, 0, (size_t)size * size * channels);
    for (int i = 0; i < size * size; ++i) memcpy(square + (size_t)channels * i, background, 3);
  }
  const int left = (size - width) / 2, top = (size - height) / 2;
  for (int y = 0; y < height; ++y) {
    uint8_t *to = square + channels * ((size_t)(top + y) * size + left);
    for (size_t i = (size_t)y * width; i < (size_t)(y + 1) * width; ++i, to += channels) {
      memcpy(to, ink + 4 * i, 3);
      if (planes) memcpy(to + 3, planes + 4 * i, LOGO_EDGE_DETAIL_PLANES);
    }
  }
}

/* A side in pixels after the longer side is scaled to `longest`; nearbyint rounds halves to even. */
static int scaled_side(double side, double other, int longest) {
  return side >= other ? longest : greatest(1, (int)nearbyint(side * longest / other));
}

int logo_edge_preprocess(const uint8_t *pixels, int channels, int width, int height, double box_width,
                         double box_height, int size, int details, int crop, const uint8_t light[3],
                         const uint8_t dark[3], double dark_above, uint8_t *square) {
  if (width > LOGO_EDGE_LONGEST_PX || height > LOGO_EDGE_LONGEST_PX) return 1; /* the weights would take gigabytes */
  const size_t pitch = (size_t)width * channels;
  if (crop) { /* preprocess.py: central_square */
    const double side = fmin(box_width, box_height);
    pixels += (size_t)((box_height - side) / 2) * pitch + (size_t)((box_width - side) / 2) * channels;
    width = height = (int)ceil(side);
    box_width = box_height = side;
  }
  const int to_width = scaled_side(box_width, box_height, size), to_height = scaled_side(box_height, box_width, size);
  const int is_larger = fmax(box_width, box_height) > LOGO_EDGE_DETAIL_PX;
  int wide = to_width, high = to_height; /* of the image that is composited on the background */
  if (details && is_larger) {
    wide = scaled_side(box_width, box_height, LOGO_EDGE_DETAIL_PX);
    high = scaled_side(box_height, box_width, LOGO_EDGE_DETAIL_PX);
  } else if (details) {
    wide = greatest(1, (int)nearbyint(box_width)), high = greatest(1, (int)nearbyint(box_height));
  }
  const size_t large_bytes = (size_t)wide * high * 4, small_bytes = details ? (size_t)to_width * to_height * 4 : 0;
  uint8_t *large = malloc(2 * (large_bytes + small_bytes)), colour[3], *ink = large, *planes = NULL;
  if (!large) return -1;
  int opaque = scale_box(pixels, pitch, channels, channels == 4, width, height, box_width, box_height, wide, high,
                         large);
  if (opaque == 0) {
    memcpy(colour, pick_background(large, wide * high, light, dark, dark_above), 3);
    composite(large, (size_t)wide * high, colour);
  }
  if (details && opaque >= 0) {
    uint8_t *large_planes = large + large_bytes;
    planes = large_planes + large_bytes, ink = planes + small_bytes;
    if (!detail_planes(large, wide, high, large_planes) ||
        scale_box(large_planes, (size_t)wide * 4, 4, 0, wide, high, wide, high, to_width, to_height, planes) < 0 ||
        scale_box(large, (size_t)wide * 4, 4, 0, wide, high, wide, high, to_width, to_height, ink) < 0) {
      opaque = -1;
    }
  }
  if (opaque == 1) border_colour(ink, to_width, to_height, colour);
  if (opaque >= 0) put(ink, planes, to_width, to_height, colour, size, square);
  free(large);
  return opaque < 0 ? -1 : 0;
}
