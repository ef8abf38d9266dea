/* preprocess.py in C: the same bytes, several times faster. Has no dependencies; build_c.py compiles it.

   Compile it with -O3 and -ffp-contract=off: fused multiply-adds would round the weights differently. */

#include "preprocess.h"

#include "scale.h"
#include "unfilter.h"

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
enum { BAND = 32 };  /* rows that are framed and summed together, so that they stay in the second cache */
enum { SIDE = LOGO_EDGE_DETAIL_PX, FRAMED = 3 * (SIDE + 2 * REACH) }; /* numbers of a framed row, at most */

/* Memory for one image with details, of up to SIDE x SIDE pixels. */
typedef struct {
  uint8_t large[4 * SIDE * SIDE], planes[4 * SIDE * SIDE], changes[SIDE * SIDE / BLOCK], around[SIDE / BLOCK];
  int16_t framed[(BAND + 2 * REACH) * FRAMED], sums[(BAND + 2 * REACH) * FRAMED];
  int16_t work[FRAMED + LOGO_EDGE_DETAIL_PLANES * SIDE];
} Workspace;

_Static_assert(sizeof(Workspace) <= LOGO_EDGE_WORKSPACE_BYTES, "preprocess.h promises that this is enough");

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

/* Fills `planes`, (height, width, 4), from `large`, (height, width, 4) opaque. They are 0 where all pixels that they
   read are equal, as in most of a logo: such blocks are skipped. */
static void detail_planes(Workspace *memory, int width, int height) {
  const int blocks = (width + BLOCK - 1) / BLOCK;
  const ptrdiff_t channel = blocks * BLOCK + 2 * REACH, row = 3 * channel;
  memset(memory->planes, 0, 4 * (size_t)width * height);
  for (int top = 0, compared = 0; top < height; top += BAND) {
    const int end_row = least(top + BAND, height);
    for (int y = top - REACH; y < end_row + REACH; ++y) {
      const uint8_t *inside = memory->large + 4 * (size_t)width * least(greatest(y, 0), height - 1);
      frame_row(inside, width, channel, memory->framed + (y + REACH - top) * row);
    }
    for (; compared < least(end_row + REACH, height); ++compared) {
      find_changes(memory->framed + (compared + REACH - top) * row + REACH, channel, row, blocks, memory->work,
                   memory->changes + (size_t)compared * blocks);
    }
    for (int y = top, summed = 1; y < end_row; ++y) {
      uint8_t *around = memory->around;
      memset(around, 0, blocks);
      for (int other = greatest(y - REACH, 0); other <= least(y + REACH, height - 1); ++other) {
        const uint8_t *changes = memory->changes + (size_t)other * blocks;
        for (int block = 0; block < blocks; ++block) around[block] |= changes[block];
      }
      const int middle = y + REACH - top; /* the row in `framed` */
      for (int block = 0, end; block < blocks; block = end + 1) {
#define IS_FLAT(at) !(around[at] | around[greatest((at) - 1, 0)] | around[least((at) + 1, blocks - 1)])
        for (end = block; end < blocks && !IS_FLAT(end); ++end) continue;
#undef IS_FLAT
        if (end == block) continue;
        for (summed = greatest(summed, middle - 4); summed <= middle + 4; ++summed) {
          sum_row(memory->framed + summed * row, row, memory->work, memory->sums + summed * row);
        }
        const int x = block * BLOCK, count = least(end * BLOCK, width) - x;
        const ptrdiff_t first = middle * row + REACH + x;
        detail_span(memory->framed + first, memory->sums + first, channel, row, count, memory->work,
                    memory->planes + 4 * ((size_t)y * width + x));
      }
    }
  }
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
                         const uint8_t dark[3], double dark_above, uint8_t *square, void *workspace) {
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
  const size_t ink_bytes = (size_t)to_width * to_height * 4;
  Workspace *own = details && !workspace ? malloc(sizeof(Workspace)) : NULL, *memory = own ? own : workspace;
  uint8_t *ink = malloc(2 * ink_bytes), *planes = details ? ink + ink_bytes : NULL, colour[3];
  int opaque = -1;
  if (ink && (memory || !details)) {
    uint8_t *large = details ? memory->large : ink;
    opaque = scale_box(pixels, pitch, channels, channels == 4, width, height, box_width, box_height, wide, high, large);
    if (opaque == 0) {
      memcpy(colour, pick_background(large, wide * high, light, dark, dark_above), 3);
      composite(large, (size_t)wide * high, colour);
    }
    if (details && opaque >= 0) {
      const uint8_t *const from[] = {large, memory->planes};
      detail_planes(memory, wide, high);
      for (int i = 0; i < 2 && opaque >= 0; ++i) {
        const size_t row_bytes = (size_t)wide * 4;
        uint8_t *to = ink + i * ink_bytes;
        if (scale_box(from[i], row_bytes, 4, 0, wide, high, wide, high, to_width, to_height, to) < 0) opaque = -1;
      }
    }
    if (opaque == 1) border_colour(ink, to_width, to_height, colour);
    if (opaque >= 0) put(ink, planes, to_width, to_height, colour, size, square);
  }
  free(ink), free(own);
  return opaque < 0 ? -1 : 0;
}
