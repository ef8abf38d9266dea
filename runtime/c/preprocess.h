#ifndef LOGO_EDGE_PREPROCESS_H
#define LOGO_EDGE_PREPROCESS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { LOGO_EDGE_LONGEST_PX = 65536, LOGO_EDGE_DETAIL_PX = 256, LOGO_EDGE_DETAIL_PLANES = 4 };
enum { LOGO_EDGE_WORKSPACE_BYTES = 700 << 10 };

/* Fills `square`, (size, size, 3) RGB, with the image of `pixels`, (height, width, channels), RGB or RGBA with straight
   alpha: letterboxed or, with `crop`, its central square. With `details` it is (size, size, 7): four detail planes
   follow RGB (preprocess.py: detail_planes).

   The image is the box of box_width x box_height pixels at the upper left. An opaque image is letterboxed in the median
   colour of its border. Another one is composited on `dark` where the mean luminance of its ink is above `dark_above`
   of 255, else on `light`.

   `workspace`: with `details`, LOGO_EDGE_WORKSPACE_BYTES, aligned like malloc's, which a thread keeps from call to
   call; or NULL, which is slower where malloc returns so much memory to the system after every call. Returns 0; 1 where
   a side is longer than LOGO_EDGE_LONGEST_PX; -1 where memory runs out. Thread-safe; no two threads share a workspace.
   */
int logo_edge_preprocess(const uint8_t *pixels, int channels, int width, int height, double box_width,
                         double box_height, int size, int details, int crop, const uint8_t light[3],
                         const uint8_t dark[3], double dark_above, uint8_t *square, void *workspace);

/* Fills `pixels`, (height, width, channels), 3 or 4 of 8 bits, from the inflated rows of a PNG, each after the byte of
   its filter. `above` is the row of pixels above the first: zeros above an image. Returns 0; 1 for an unknown
   filter. */
int logo_edge_unfilter(const uint8_t *rows, int channels, int width, int height, const uint8_t *above,
                       uint8_t *pixels);

#ifdef __cplusplus
}
#endif

#endif
