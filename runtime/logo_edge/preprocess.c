/* preprocess.py in C: the same bytes several times quicker. Depends on nothing; hatch_build.py compiles it.

   The resampling is Pillow 13's antialiased triangle filter in fixed point, along one axis after the other, each pass
   rounded to 8 bits. To be compiled with -O3 and -ffp-contract=off: fused multiply-adds would round the weights
   otherwise. */

#include "preprocess.h"

#include <math.h>
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
enum { CHUNK = 256 }; /* of their pixels at a time, or as many as one output pixel needs */

/* Red, green, blue and alpha as numbers, and those of the pixels of two rows. */
typedef int32_t Pixel __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t Pair __attribute__((vector_size(32), aligned(4), may_alias));

#define HALVES ((Pair){HALF, HALF, HALF, HALF, HALF, HALF, HALF, HALF})
/* A weighted sum is never below 0, no weight being negative, but above 255 where very many weights were rounded up. */
#define CLIPPED(sums) (((sums) & ~((sums) > 255)) | (((sums) > 255) & 255))

/* What each pixel of a scaled axis is made of: `count` pixels from `first` on, whose weights' sum is 2^22. */
typedef struct {
  int most, *first, *count;
  int32_t *weights; /* `most` for each */
  int32_t *paired;  /* those for two pixels at a time, repeated for every byte of a pixel: `pairs` times 8 for each */
  int pairs;
} Taps;

/* Room for `pixels` pixels of LANES rows: as bytes, and as numbers, `pitch` from a row to the next. */
typedef struct {
  int pixels;
  size_t pitch;
  uint8_t *row;
  int32_t *wide;
} Chunk;

static int least(int one, int other) { return one < other ? one : other; }
static int greatest(int one, int other) { return one > other ? one : other; }

/* The taps from the first `box` of `from` pixels to `to`; false where memory is lacking. */
static int make_taps(Taps *taps, int from, double box, int to) {
  const double scale = box / to, support = fmax(scale, 1);
  taps->most = (int)ceil(support) * 2 + 1;
  taps->first = malloc(sizeof(int) * to);
  taps->count = malloc(sizeof(int) * to);
  taps->weights = malloc(sizeof(int32_t) * to * taps->most);
  double *shares = malloc(sizeof(double) * taps->most);
  const int made = taps->first && taps->count && taps->weights && shares;
  for (int i = 0; made && i < to; ++i) {
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
  return made;
}

/* Fills `paired` for pixels of `step` bytes; false where memory is lacking. */
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

/* `count` pixels of RGBA with premultiplied colours, rounded as Pillow does; gives the AND of `opaque` and each alpha. */
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

/* The sums of two pixels at a time as those of one; where a pixel has three bytes, the fourth is anything. */
static inline void store(Pair pairs, int step, int32_t *result) {
  int32_t sums[8];
  *(Pair *)sums = pairs;
  const Pixel sum = (*(const Pixel *)sums + *(const Pixel *)(sums + step) + HALF) >> PRECISION_BITS;
  *(Pixel *)result = (sum & ~(sum > 255)) | ((sum > 255) & 255);
}

/* The scaled pixels from `i` to `end` of the rows whose pixels from `start` on are in the chunk. */
FOR_EACH_CPU static void scale_lanes(const Chunk *chunk, int step, int start, const Taps *taps, int i, int end,
                                     int32_t *const results[]) {
  const size_t pitch = chunk->pitch;
  for (; i < end; ++i) {
    const int32_t *wide = chunk->wide + (size_t)(taps->first[i] - start) * step;
    const int32_t *weights = taps->paired + (size_t)i * taps->pairs * 8;
    Pair sums[LANES] = {{0}};
    for (int pair = 0; pair < taps->pairs; ++pair, wide += 2 * step, weights += 8) { /* of weight 0 beyond the last */
      const Pair weight = *(const Pair *)weights;
      for (int lane = 0; lane < LANES; ++lane) sums[lane] += *(const Pair *)(wide + lane * pitch) * weight;
    }
    for (int lane = 0; lane < LANES; ++lane) store(sums[lane], step, results[lane] + 4 * (size_t)i);
  }
}

/* LANES rows to `to` pixels, in numbers; the result is that of premultiply. */
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

/* One row out of `count` rows of `length` numbers, a multiple of 8. */
FOR_EACH_CPU static void mix_rows(const int32_t *const *rows, const int32_t *weights, int count, size_t length,
                                  int32_t *restrict result) {
  for (size_t x = 0; x < length; x += 8) {
    Pair sums = HALVES;
    for (int row = 0; row < count; ++row) sums += *(const Pair *)(rows[row] + x) * weights[row];
    *(Pair *)(result + x) = CLIPPED(sums >> PRECISION_BITS);
  }
}

/* Fills `ink`, (to_height, to_width, 4) premultiplied. 1 where all is opaque, else 0; -1 where memory is lacking.

   Rows are scaled before columns, but for pictures that lose more than twice as much height as width: Pillow's order.
   Of the rows only those are kept, in a ring, that the next one of the result is made of, so that they stay in the
   nearest cache. */
static int scale(const uint8_t *pixels, int step, int width, int height, const Taps *across, const Taps *down,
                 int to_width, int to_height, uint8_t *ink) {
  const int rows_first = !(height > to_height && height - to_height > 2 * (width - to_width));
  const int kept = down->most + LANES;
  const size_t pitch = (size_t)width * step; /* of a row, in bytes */
  const size_t length = ((rows_first ? 4 * (size_t)to_width : (size_t)width * step) + 7) / 8 * 8;
  const int pixels_of_chunk = greatest(CHUNK, across->most), straight = step == 4;
  int32_t *ring = calloc(kept * length, 4), *mixed = malloc(4 * (length + 4 * (size_t)to_width));
  int32_t *unused = malloc(16 * (size_t)to_width);
  uint32_t opaque = 255;
  uint8_t *line = malloc(4 * (size_t)width);
  const int32_t **rows = malloc(sizeof(int32_t *) * down->most);
  Chunk chunk = {pixels_of_chunk, 4 * ((size_t)pixels_of_chunk + across->most + 2), NULL, NULL};
  chunk.row = malloc(4 * (size_t)chunk.pixels);
  chunk.wide = calloc(LANES * chunk.pitch, 4);
  const int made = ring && mixed && unused && line && rows && chunk.row && chunk.wide;
  for (int i = 0, next = 0; made && i < to_height; ++i) {
    const int first = down->first[i], end = first + down->count[i];
    while (next < end) {
      if (rows_first) {
        const uint8_t *lanes[LANES];
        int32_t *slots[LANES];
        for (int lane = 0; lane < LANES; ++lane) { /* below the last row it is scaled once more, for nothing */
          lanes[lane] = pixels + (size_t)least(next + lane, height - 1) * pitch;
          slots[lane] = next + lane < height ? ring + (next + lane) % kept * length : unused;
        }
        opaque = scale_rows(lanes, straight, step, across, to_width, &chunk, slots, opaque);
        next += LANES;
      } else {
        const uint8_t *row = pixels + (size_t)next * pitch;
        if (straight) opaque = premultiply(row, width, line, opaque), row = line;
        widen(row, pitch, ring + next % kept * length);
        ++next;
      }
    }
    for (int row = first; row < end; ++row) rows[row - first] = ring + row % kept * length;
    mix_rows(rows, down->weights + (size_t)i * down->most, end - first, length, mixed);
    if (!rows_first) {
      const uint8_t *lanes[LANES];
      int32_t *results[LANES];
      for (int lane = 0; lane < LANES; ++lane) lanes[lane] = line, results[lane] = lane ? unused : mixed;
      narrow(mixed, pitch, line);
      scale_rows(lanes, 0, step, across, to_width, &chunk, results, opaque);
    }
    narrow(mixed, 4 * (size_t)to_width, ink + (size_t)i * to_width * 4);
  }
  free(ring), free(mixed), free(unused), free(line), free(rows), free(chunk.row), free(chunk.wide);
  return made ? opaque == 255 : -1;
}

/* The median colour of an opaque picture's border; each corner counts twice. */
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
static const uint8_t *pick_background(const uint8_t *ink, int count, const uint8_t *light, const uint8_t *dark,
                                      double dark_above) {
  int64_t sums[4] = {0};
  for (int i = 0; i < count; ++i) {
    for (int channel = 0; channel < 4; ++channel) sums[channel] += ink[4 * i + channel];
  }
  const double weighted = (double)(255 * (299 * sums[0] + 587 * sums[1] + 114 * sums[2]));
  return weighted > (double)(1000 * sums[3]) * dark_above ? dark : light;
}

/* The ink in the middle of the square, and the background around it and where it shines through. */
static void lay(const uint8_t *ink, int width, int height, int opaque, const uint8_t background[3], int size,
                uint8_t *square) {
  uint8_t shine[256][3] = {{0}};
  for (int alpha = 0; alpha < 256 && !opaque; ++alpha) {
    for (int channel = 0; channel < 3; ++channel) {
      shine[alpha][channel] = (uint8_t)(((255 - alpha) * background[channel] + 127) / 255);
    }
  }
  if (width != height) {
    for (int i = 0; i < size * size; ++i) memcpy(square + 3 * i, background, 3);
  }
  const int left = (size - width) / 2, top = (size - height) / 2;
  for (int y = 0; y < height; ++y) {
    const uint8_t *pixel = ink + (size_t)y * width * 4;
    uint8_t *to = square + 3 * ((size_t)(top + y) * size + left);
    for (int x = 0; x < width; ++x, pixel += 4, to += 3) {
      for (int channel = 0; channel < 3; ++channel) to[channel] = (uint8_t)(pixel[channel] + shine[pixel[3]][channel]);
    }
  }
}

int logo_edge_preprocess(const uint8_t *pixels, int channels, int width, int height, double box_width,
                         double box_height, int size, const uint8_t light[3], const uint8_t dark[3], double dark_above,
                         uint8_t *square) {
  if (width > LOGO_EDGE_LONGEST_PX || height > LOGO_EDGE_LONGEST_PX) return 1; /* the weights would take gigabytes */
  const int wide = box_width >= box_height; /* nearbyint: halves go to the even number */
  const int to_width = wide ? size : greatest(1, (int)nearbyint(box_width * size / box_height));
  const int to_height = wide ? greatest(1, (int)nearbyint(box_height * size / box_width)) : size;
  Taps across = {0}, down = {0};
  uint8_t *ink = malloc((size_t)to_width * to_height * 4), colour[3];
  int opaque = -1;
  if (ink && make_taps(&across, width, box_width, to_width) && pair_taps(&across, to_width, channels) &&
      make_taps(&down, height, box_height, to_height)) {
    opaque = scale(pixels, channels, width, height, &across, &down, to_width, to_height, ink);
  }
  if (opaque == 1) border_colour(ink, to_width, to_height, colour);
  if (opaque == 0) memcpy(colour, pick_background(ink, to_width * to_height, light, dark, dark_above), 3);
  if (opaque >= 0) lay(ink, to_width, to_height, opaque, colour, size, square);
  free(ink), free_taps(&across), free_taps(&down);
  return opaque < 0 ? -1 : 0;
}
