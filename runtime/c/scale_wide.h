/* The scaling of scale.h for processors without AVX2; alone that file includes this one. */

enum { CHUNK = 256 }; /* pixels of each row at a time, or as many as one output pixel needs */

/* Memory for `pixels` pixels of LANES rows: as bytes, and as numbers with `pitch` from a row to the next. */
typedef struct {
  int pixels;
  size_t pitch;
  uint8_t *row;
  int32_t *wide;
} Chunk;

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

FOR_EACH_CPU static void widen(const uint8_t *restrict bytes, size_t count, int32_t *restrict numbers) {
  for (size_t i = 0; i < count; ++i) numbers[i] = bytes[i];
}

FOR_EACH_CPU static void narrow(const int32_t *restrict numbers, size_t count, uint8_t *restrict bytes) {
  for (size_t i = 0; i < count; ++i) bytes[i] = (uint8_t)numbers[i];
}

/* Sums of products, rounded, shifted and limited to 255: where very many weights were rounded up they may be above, but
   never below 0, as no weight is. Vectors are an extension of gcc and clang; others, such as MSVC, take the loops. */
#ifdef HAS_VECTORS

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

/* `scale` for any processor. Rows are widened to numbers of 32 bits, LANES at a time and a chunk of each, so that they
   stay in the first cache. */
static int scale_wide(const uint8_t *pixels, size_t pitch, int step, int straight, int width, int height,
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
