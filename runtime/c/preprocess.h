#ifndef LOGO_EDGE_PREPROCESS_H
#define LOGO_EDGE_PREPROCESS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { LOGO_EDGE_LONGEST_PX = 65536, LOGO_EDGE_DETAIL_PX = 256, LOGO_EDGE_DETAIL_PLANES = 4 };

/* Fills `square`, (size, size, 3) RGB, with the image of `pixels`, (height, width, channels), RGB or RGBA with straight
   alpha: letterboxed or, with `crop`, its central square. With `details` it is (size, size, 7): four detail planes
   follow RGB (preprocess.py: detail_planes).

   The image is the box of box_width x box_height pixels at the upper left. An opaque image is letterboxed in the median
   colour of its border. Another one is composited on `dark` where the mean luminance of its ink is above `dark_above`
   of 255, else on `light`. Returns 0; 1 where a side is longer than LOGO_EDGE_LONGEST_PX; -1 where memory runs out.
   Thread-safe. */
int logo_edge_preprocess(const uint8_t *pixels, int channels, int width, int height, double box_width,
                         double box_height, int size, int details, int crop, const uint8_t light[3],
                         const uint8_t dark[3], double dark_above, uint8_t *square);

#ifdef __cplusplus
}
#endif

#endif
