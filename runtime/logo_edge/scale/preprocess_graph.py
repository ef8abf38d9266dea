"""`preprocess` as an ONNX graph, equal to the byte: for servers and devices that run graphs but no Python.

It resizes as Pillow does, in integers: coefficients of 22 bits, computed in float64 in Pillow's order, and one rounding
to 8 bits between the two passes. The vertical pass comes first in the cases in which Pillow 13 puts it first. A
coefficient is split into three bytes, so that each pass is three products of bytes, exact and fast.
"""

from __future__ import annotations

from logo_edge.errors import MissingExtraError
from logo_edge.preprocess import CROP, DETAIL_PX, InputContract

OPSET, IR_VERSION = 18, 10  # ONNX Runtime 1.20 or later

# Names in capitals are replaced: by a number, or by a part below, which depends on the detail planes.
GRAPH = """
<ir_version: IR_VERSION, opset_import: ["" : OPSET, "logo_edge" : 1]>
preprocess (uint8[height, width, 4] image) => (uint8[1, SIZE, SIZE, CHANNELS] pixels, bool[1, 1] is_blank)
<
  int64 first = {0}, int64 last = {-1}, int64 fourth = {3}, int64[1] minus_two = {-2},
  int64[1] axis_0 = {0}, int64[1] axis_1 = {1}, int64[1] axis_2 = {2},
  int64[2] axes_1_2 = {1, 2}, int64[2] axes_0_1 = {0, 1},
  int64[2] three_and_one = {3, 1}, int64[1] one = {1}, int64[1] two = {2},
  float full_float = {255}, float half = {0.5}, int32 full = {255}, int32 rounding = {127}, int32 pair = {2},
  int32 none = {0},
  double one_pixel = {1},
  double[4] luminance_weights = {76245, 149685, 29070, 0}
>
{
CUT
  # Premultiplied planes: (4, H, W).
  planes = Transpose <perm = [2, 0, 1]> (SHOWN)
  colours, alpha = Split <axis = 0> (planes, three_and_one)
  colours_float = Cast <to = 1> (colours)
  alpha_float = Cast <to = 1> (alpha)
  product = Mul (colours_float, alpha_float)
  scaled = Div (product, full_float)
  raised = Add (scaled, half)
  premultiplied_colours = Cast <to = 2> (raised)
  premultiplied = Concat <axis = 0> (premultiplied_colours, alpha)

  # The letterboxed size: the longer side becomes SIZE, and no side is below one pixel.
  shape = Shape <start = 0, end = 2> (SHOWN)
  sides = Cast <to = 11> (shape)
  longer = ReduceMax <keepdims = 0> (sides)
  size_double = Cast <to = 11> (size)
  enlarged = Mul (sides, size_double)
  fitted = Div (enlarged, longer)
  whole = Round (fitted)
  new_sides = Max (whole, one_pixel)
  new_shape = Cast <to = 7> (new_sides)
DETAIL_SIDES
  small = logo_edge.resized (premultiplied, sides, LAID_SIDES)

  # The background of an image with transparency, and the image composited on it.
  small_double = Cast <to = 11> (small)
  sums = ReduceSum <keepdims = 0> (small_double, axes_1_2)
  luminances = Mul (sums, luminance_weights)
  luminance = ReduceSum <keepdims = 0> (luminances)
  covered = Gather (sums, fourth)
  limit = Mul (covered, dark_above)
  is_light = Greater (luminance, limit)
  behind = Where (is_light, dark_background, light_background)
  small_integers = Cast <to = 6> (small)
  ink, cover = Split <axis = 0> (small_integers, three_and_one)
  clear = Sub (full, cover)
  shine = Mul (clear, behind)
  shine_raised = Add (shine, rounding)
  shine_through = Div (shine_raised, full)
  opaque_ink = Add (ink, shine_through)
DETAILS

  # The background of an opaque image: the median of its border, which has an even number of pixels.
  top = Gather <axis = 1> (laid, first)
  bottom = Gather <axis = 1> (laid, last)
  left = Gather <axis = 2> (laid, first)
  right = Gather <axis = 2> (laid, last)
  border = Concat <axis = 1> (top, bottom, left, right)
  half_of_border = ReduceSum (new_shape)
  upper_half = Add (half_of_border, one)
  largest, _positions = TopK <axis = 1> (border, upper_half)
  middle = Slice (largest, minus_two, upper_half, axis_1)
  middle_sum = ReduceSum <keepdims = 1> (middle, axis_1)
  median_row = Div (middle_sum, pair)
  median = Unsqueeze (median_row, axis_2)
  alpha_least = ReduceMin <keepdims = 0> (alpha_float)
  is_opaque = Equal (alpha_least, full_float)
  background = Where (is_opaque, median, behind)

  # The square.
  slack = Sub (size, new_shape)
  before = Div (slack, two)
  after = Sub (slack, before)
  pads = Concat <axis = 0> (axis_0, before, axis_0, after)
  difference = Sub (laid, background)
  padded = Pad (difference, pads)
  square = Add (padded, background)
SQUARE
  upright = Transpose <perm = [1, 2, 0]> (all_channels)
  bytes = Cast <to = 2> (upright)
  pixels = Unsqueeze (bytes, axis_0)

  # Blank if all pixels have one colour.
  brightest = ReduceMax <keepdims = 0> (square, axes_1_2)
  darkest = ReduceMin <keepdims = 0> (square, axes_1_2)
  spreads = Sub (brightest, darkest)
  spread = ReduceMax <keepdims = 0> (spreads)
  is_uniform = Equal (spread, none)
  is_blank = Unsqueeze (is_uniform, axes_0_1)
}
<domain: "logo_edge", opset_import: ["" : OPSET, "logo_edge" : 1]>
resized (planes, sides, new_sides) => (resized)
{
  # uint8 (C, H, W) in two passes; the vertical one first if it saves more rows than twice the saved columns.
  twice = Constant <value = double {2}> ()
  nothing = Constant <value = double {0}> ()
  height, width = Split <num_outputs = 2> (sides)
  new_height, new_width = Split <num_outputs = 2> (new_sides)
  down_high, down_middle, down_low = logo_edge.coefficients (height, new_height)
  right_high, right_middle, right_low = logo_edge.coefficients (width, new_width)
  across_high = Transpose <perm = [1, 0]> (right_high)
  across_middle = Transpose <perm = [1, 0]> (right_middle)
  across_low = Transpose <perm = [1, 0]> (right_low)
  saved = Sub (sides, new_sides)
  saved_rows, saved_columns = Split <num_outputs = 2> (saved)
  saved_columns_twice = Mul (saved_columns, twice)
  saves_much = Greater (saved_rows, saved_columns_twice)
  saves_rows = Greater (saved_rows, nothing)
  is_down_first = And (saves_much, saves_rows)
  resized = If (is_down_first) <
    then_branch = down_first () => (down_across) {
      short_high = MatMulInteger (down_high, planes)
      short_middle = MatMulInteger (down_middle, planes)
      short_low = MatMulInteger (down_low, planes)
      short = logo_edge.rounded (short_high, short_middle, short_low)
      down_across_high = MatMulInteger (short, across_high)
      down_across_middle = MatMulInteger (short, across_middle)
      down_across_low = MatMulInteger (short, across_low)
      down_across = logo_edge.rounded (down_across_high, down_across_middle, down_across_low)
    },
    else_branch = across_first () => (across_down) {
      narrow_high = MatMulInteger (planes, across_high)
      narrow_middle = MatMulInteger (planes, across_middle)
      narrow_low = MatMulInteger (planes, across_low)
      narrow = logo_edge.rounded (narrow_high, narrow_middle, narrow_low)
      across_down_high = MatMulInteger (down_high, narrow)
      across_down_middle = MatMulInteger (down_middle, narrow)
      across_down_low = MatMulInteger (down_low, narrow)
      across_down = logo_edge.rounded (across_down_high, across_down_middle, across_down_low)
    }
  >
}
<domain: "logo_edge", opset_import: ["" : OPSET]>
coefficients (length_1, size_1) => (high, middle, low)
{
  # (size, length) bytes each; their sum is 65536 high + 256 middle + low, of 2 ** 22. A triangle of width 2 * support.
  zero = Constant <value = double {0}> ()
  half = Constant <value = double {0.5}> ()
  one = Constant <value = double {1}> ()
  unit = Constant <value = double {4194304}> ()
  byte = Constant <value = int32 {256}> ()
  axis_1 = Constant <value = int64[1] {1}> ()
  along = Constant <value = int64 {1}> ()
  last = Constant <value = int64[1] {-1}> ()
  length = Squeeze (length_1)
  size = Squeeze (size_1)
  scale = Div (length, size)
  support = Max (scale, one)
  inverse = Div (one, support)
  index = Range (zero, size, one)
  index_middle = Add (index, half)
  centres = Mul (index_middle, scale)
  centre = Unsqueeze (centres, axis_1)
  source = Range (zero, length, one)
  lowest = Sub (centre, support)
  lowest_raised = Add (lowest, half)
  start = Floor (lowest_raised)
  highest = Add (centre, support)
  highest_raised = Add (highest, half)
  end = Floor (highest_raised)
  is_after = GreaterOrEqual (source, start)
  is_before = Less (source, end)
  is_inside = And (is_after, is_before)
  offset = Sub (source, centre)
  offset_middle = Add (offset, half)
  offset_scaled = Mul (offset_middle, inverse)
  distance = Abs (offset_scaled)
  height = Sub (one, distance)
  triangle = Max (height, zero)
  weight = Where (is_inside, triangle, zero)
  sums = CumSum (weight, along)
  total = Gather <axis = 1> (sums, last)
  share = Div (weight, total)
  fixed = Mul (share, unit)
  fixed_raised = Add (fixed, half)
  whole = Cast <to = 6> (fixed_raised)
  upper = Div (whole, byte)
  upper_shifted = Mul (upper, byte)
  low_integer = Sub (whole, upper_shifted)
  high_integer = Div (upper, byte)
  high_shifted = Mul (high_integer, byte)
  middle_integer = Sub (upper, high_shifted)
  high = Cast <to = 2> (high_integer)
  middle = Cast <to = 2> (middle_integer)
  low = Cast <to = 2> (low_integer)
}
<domain: "logo_edge", opset_import: ["" : OPSET]>
rounded (high, middle, low) => (rounded)
{
  byte = Constant <value = int32 {256}> ()
  half = Constant <value = int32 {2097152}> ()
  unit = Constant <value = int32 {4194304}> ()
  high_shifted = Mul (high, byte)
  upper = Add (high_shifted, middle)
  upper_shifted = Mul (upper, byte)
  sum = Add (upper_shifted, low)
  raised = Add (sum, half)
  quotient = Div (raised, unit)
  rounded = Cast <to = 2> (quotient)
}
"""
# What is read of an image that is not square: all of it, or its central square.
WHOLE = {"CUT": "", "SHOWN": "image"}
CENTRE = {
    "CUT": """
  whole_shape = Shape <start = 0, end = 2> (image)
  shorter = ReduceMin (whole_shape)
  surplus = Sub (whole_shape, shorter)
  cut_before = Div (surplus, two)
  cut_after = Add (cut_before, shorter)
  central = Slice (image, cut_before, cut_after, axes_0_1)
""",
    "SHOWN": "central",
}
# Without detail planes.
PLAIN = {
    "LAID_SIDES": "new_sides",
    "DETAIL_SIDES": "",
    "DETAILS": "  laid = Identity (opaque_ink)",
    "SQUARE": "  all_channels = Identity (square)",
}
# With them: computed at DETAIL_PX or less, then pooled with the colours to the letterboxed size.
DETAILED = {
    "LAID_SIDES": "detail_sides",
    "DETAIL_SIDES": """
  detail_px = Constant <value = double {DETAIL_PX}> ()
  detail_enlarged = Mul (sides, detail_px)
  detail_fitted = Div (detail_enlarged, longer)
  detail_whole = Round (detail_fitted)
  detail_reduced = Max (detail_whole, one_pixel)
  is_larger = Greater (longer, detail_px)
  detail_sides = Where (is_larger, detail_reduced, sides)
""",
    "DETAILS": """
  margin = Constant <value = int64[6] {0, 6, 6, 0, 6, 6}> ()
  colours_and_planes = Constant <value = int64[2] {3, 4}> ()
  framed = Pad <mode = "edge"> (opaque_ink, margin)
  framed_upright = Transpose <perm = [0, 2, 1]> (framed)
  fires_across, bend_across = logo_edge.details_across (framed)
  fires_down_upright, bend_down_upright = logo_edge.details_across (framed_upright)
  fires_down = Transpose <perm = [0, 2, 1]> (fires_down_upright)
  bend_down = Transpose <perm = [0, 2, 1]> (bend_down_upright)
  fires = Or (fires_across, fires_down)
  fading = Where (fires, full, none)
  laplacian = Add (bend_across, bend_down)
  laplacian_size = Abs (laplacian)
  edge_most = logo_edge.most (laplacian_size)
  edge = Min (edge_most, full)
  large = Concat <axis = 0> (opaque_ink, fading, edge)
  large_bytes = Cast <to = 2> (large)
  pooled_bytes = logo_edge.resized (large_bytes, detail_sides, new_sides)
  pooled = Cast <to = 6> (pooled_bytes)
  laid, details = Split <axis = 0> (pooled, colours_and_planes)
""",
    "SQUARE": """
  details_padded = Pad (details, pads)
  all_channels = Concat <axis = 0> (square, details_padded)
""",
}
DETAIL_FUNCTIONS = """
<domain: "logo_edge", opset_import: ["" : OPSET, "logo_edge" : 1]>
details_across (framed) => (fires, bend)
{
  # int32 (3, h + 12, w + 12) -> bool (3, h, w): near fade, far fade and ramp; int32 (3, h, w): the second difference.
  down = Constant <value = int64[1] {1}> ()
  right = Constant <value = int64[1] {2}> ()
  starts = Constant <value = int64[7] {0, 4, 5, 6, 7, 8, 12}> ()
  ends = Constant <value = int64[7] {-12, -8, -7, -6, -5, -4, 9223372036854775807}> ()
  from_0, from_4, from_5, from_6, from_7, from_8, from_12 = Split <num_outputs = 7> (starts)
  to_0, to_4, to_5, to_6, to_7, to_8, to_12 = Split <num_outputs = 7> (ends)
  rows = Slice (framed, from_6, to_6, down)
  before_6 = Slice (rows, from_0, to_0, right)
  before_2 = Slice (rows, from_4, to_4, right)
  before_1 = Slice (rows, from_5, to_5, right)
  middle = Slice (rows, from_6, to_6, right)
  after_1 = Slice (rows, from_7, to_7, right)
  after_2 = Slice (rows, from_8, to_8, right)
  after_6 = Slice (rows, from_12, to_12, right)
  near_least = Constant <value = int32 {3}> ()
  near_most = Constant <value = int32 {24}> ()
  far_least = Constant <value = int32 {4}> ()
  far_most = Constant <value = int32 {48}> ()
  near = logo_edge.fade (before_2, middle, after_2, near_least, near_most)
  far = logo_edge.fade (before_6, middle, after_6, far_least, far_most)
  ramp = logo_edge.ramp (framed)
  fires = Concat <axis = 0> (near, far, ramp)
  middle_twice = Add (middle, middle)
  beside = Add (before_1, after_1)
  bend = Sub (middle_twice, beside)
}
<domain: "logo_edge", opset_import: ["" : OPSET, "logo_edge" : 1]>
fade (before, middle, after, least, most) => (is_fade)
{
  # int32 (3, h, w) -> bool (1, h, w)
  three = Constant <value = int32 {3}> ()
  four = Constant <value = int32 {4}> ()
  difference = Sub (after, before)
  difference_size = Abs (difference)
  change = logo_edge.most (difference_size)
  beside = Add (before, after)
  middle_twice = Add (middle, middle)
  second_difference = Sub (beside, middle_twice)
  second_difference_size = Abs (second_difference)
  bend = logo_edge.most (second_difference_size)
  bend_thrice = Mul (bend, three)
  bound = Max (change, four)
  is_smooth = LessOrEqual (bend_thrice, bound)
  is_enough = GreaterOrEqual (change, least)
  is_little = LessOrEqual (change, most)
  is_between = And (is_enough, is_little)
  is_fade = And (is_smooth, is_between)
}
<domain: "logo_edge", opset_import: ["" : OPSET]>
most (channels) => (most)
{
  # (3, h, w) -> (1, h, w); several times faster than ReduceMax
  red, green, blue = Split <axis = 0, num_outputs = 3> (channels)
  most = Max (red, green, blue)
}
<domain: "logo_edge", opset_import: ["" : OPSET, "logo_edge" : 1]>
ramp (framed) => (is_ramp)
{
  # int32 (3, h + 12, w + 12) -> bool (1, h, w). Small integers, which float holds exactly, as MaxPool needs them.
  channels = Constant <value = int64[1] {0}> ()
  down = Constant <value = int64[1] {1}> ()
  right = Constant <value = int64[1] {2}> ()
  starts = Constant <value = int64[5] {0, 1, 2, 5, 9}> ()
  ends = Constant <value = int64[5] {-9, -5, -2, -1, 9223372036854775807}> ()
  from_0, from_1, from_2, from_5, from_9 = Split <num_outputs = 5> (starts)
  less_9, less_5, less_2, less_1, end = Split <num_outputs = 5> (ends)
  values = Cast <to = 1> (framed)
  above = Slice (values, from_0, less_2, down)
  between = Slice (values, from_1, less_1, down)
  below = Slice (values, from_2, end, down)
  columns = Sum (above, between, below)
  rows = Slice (columns, from_5, less_5, down)
  left = Slice (rows, from_0, less_2, right)
  centre = Slice (rows, from_1, less_1, right)
  after = Slice (rows, from_2, end, right)
  sums = Sum (left, centre, after)
  steps_from = Slice (sums, from_1, less_2, right)
  steps_to = Slice (sums, from_2, less_1, right)
  steps = Sub (steps_to, steps_from)
  falls = Neg (steps)
  steps_batch = Unsqueeze (steps, channels)
  falls_batch = Unsqueeze (falls, channels)
  most_batch = MaxPool <kernel_shape = [1, 8]> (steps_batch)
  least_batch = MaxPool <kernel_shape = [1, 8]> (falls_batch)
  most_rise = Squeeze (most_batch, channels)
  most_fall = Squeeze (least_batch, channels)
  first = Slice (sums, from_1, less_9, right)
  last = Slice (sums, from_9, less_1, right)
  total = Sub (last, first)
  highest = Max (most_rise, most_fall)
  against = Min (most_rise, most_fall)
  change = Abs (total)
  change_least = Constant <value = float {27}> ()
  against_most = Constant <value = float {3}> ()
  highest_below = Constant <value = float {90}> ()
  sixteen = Constant <value = float {16}> ()
  five = Constant <value = float {5}> ()
  bound_least = Constant <value = float {200}> ()
  is_enough = GreaterOrEqual (change, change_least)
  is_one_way = LessOrEqual (against, against_most)
  is_gentle = Less (highest, highest_below)
  highest_scaled = Mul (highest, sixteen)
  change_scaled = Mul (change, five)
  bound = Max (change_scaled, bound_least)
  is_even = LessOrEqual (highest_scaled, bound)
  is_steady = And (is_one_way, is_gentle)
  is_monotone = And (is_steady, is_even)
  is_ramp_channel = And (is_monotone, is_enough)
  red, green, blue = Split <axis = 0, num_outputs = 3> (is_ramp_channel)
  red_or_green = Or (red, green)
  is_ramp = Or (red_or_green, blue)
}
"""


def preprocess_graph(contract: InputContract):
    """An ONNX model of `preprocess`: `image` -> `pixels` and `is_blank`.

    `image` is (H, W, 4) uint8 RGBA with straight alpha; give an RGB image an alpha of 255. `pixels` is (1, size_px,
    size_px, channels) uint8, `is_blank` (1, 1) bool: all pixels have one colour. Raises MissingExtraError without onnx.
    """
    import numpy as np

    constants = {
        "size": np.array([contract.size_px], np.int64),
        "dark_above": np.array(1000 * contract.dark_above_luminance, np.float64),
        "light_background": np.array(contract.light_background, np.int32).reshape(3, 1, 1),
        "dark_background": np.array(contract.dark_background, np.int32).reshape(3, 1, 1),
    }
    text = GRAPH + DETAIL_FUNCTIONS if contract.details else GRAPH
    parts = (DETAILED if contract.details else PLAIN) | (CENTRE if contract.fit == CROP else WHOLE)
    for name, part in parts.items():
        text = text.replace(name, part)
    text = text.replace("CHANNELS", str(contract.channels)).replace("DETAIL_PX", str(DETAIL_PX))
    return parse_graph(text.replace("SIZE", str(contract.size_px)), constants)


def parse_graph(text: str, constants: dict):
    """The checked ONNX model of a text in ONNX's own syntax, with these arrays as further initializers."""
    try:
        import onnx
        import onnx.parser
    except ImportError as error:
        raise MissingExtraError("triton", "onnx") from error
    model = onnx.parser.parse_model(text.replace("IR_VERSION", str(IR_VERSION)).replace("OPSET", str(OPSET)))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.checker.check_model(model)
    return model
