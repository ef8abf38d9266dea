"""`preprocess` as an ONNX graph, to the byte: for servers and devices that run graphs but no Python.

It computes what Pillow does, in integers: coefficients of 22 bits, made in float64 in Pillow's order, and one rounding
to 8 bits between the two passes, of which the vertical one comes first where Pillow 13 puts it first. A coefficient is
cut into three bytes, so that each pass is three products of bytes, exact and quick.
"""

from __future__ import annotations

from logo_edge.errors import MissingExtraError
from logo_edge.preprocess import InputContract

OPSET, IR_VERSION = 18, 10  # ONNX Runtime 1.20 or later

GRAPH = """
<ir_version: IR_VERSION, opset_import: ["" : OPSET, "logo_edge" : 1]>
preprocess (uint8[height, width, 4] image) => (uint8[1, SIZE, SIZE, 3] pixels, bool[1, 1] is_blank)
<
  int64 first = {0}, int64 last = {-1}, int64 fourth = {3}, int64[1] minus_two = {-2},
  int64[1] axis_0 = {0}, int64[1] axis_1 = {1}, int64[1] axis_2 = {2}, int64[2] axes_1_2 = {1, 2}, int64[2] axes_0_1 = {0, 1},
  int64[2] three_and_one = {3, 1}, int64[1] one = {1}, int64[1] two = {2},
  float full_float = {255}, float half = {0.5}, int32 full = {255}, int32 rounding = {127}, int32 pair = {2}, int32 none = {0},
  double one_pixel = {1}, double twice = {2}, double nothing = {0},
  double[4] luminance_weights = {76245, 149685, 29070, 0}
>
{
  # Premultiplied planes: (4, H, W).
  planes = Transpose <perm = [2, 0, 1]> (image)
  colours, alpha = Split <axis = 0> (planes, three_and_one)
  colours_float = Cast <to = 1> (colours)
  alpha_float = Cast <to = 1> (alpha)
  product = Mul (colours_float, alpha_float)
  scaled = Div (product, full_float)
  raised = Add (scaled, half)
  premultiplied_colours = Cast <to = 2> (raised)
  premultiplied = Concat <axis = 0> (premultiplied_colours, alpha)

  # The letterboxed size: the longer side becomes SIZE, none less than a pixel.
  shape = Shape <start = 0, end = 2> (image)
  sides = Cast <to = 11> (shape)
  longer = ReduceMax <keepdims = 0> (sides)
  size_double = Cast <to = 11> (size)
  enlarged = Mul (sides, size_double)
  fitted = Div (enlarged, longer)
  whole = Round (fitted)
  new_sides = Max (whole, one_pixel)
  new_shape = Cast <to = 7> (new_sides)
  height, width = Split <num_outputs = 2> (sides)
  new_height, new_width = Split <num_outputs = 2> (new_sides)

  # Two passes; the vertical one first where it saves more than twice the rows.
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
  small = If (is_down_first) <
    then_branch = down_first () => (down_across) {
      short_high = MatMulInteger (down_high, premultiplied)
      short_middle = MatMulInteger (down_middle, premultiplied)
      short_low = MatMulInteger (down_low, premultiplied)
      short = logo_edge.rounded (short_high, short_middle, short_low)
      down_across_high = MatMulInteger (short, across_high)
      down_across_middle = MatMulInteger (short, across_middle)
      down_across_low = MatMulInteger (short, across_low)
      down_across = logo_edge.rounded (down_across_high, down_across_middle, down_across_low)
    },
    else_branch = across_first () => (across_down) {
      narrow_high = MatMulInteger (premultiplied, across_high)
      narrow_middle = MatMulInteger (premultiplied, across_middle)
      narrow_low = MatMulInteger (premultiplied, across_low)
      narrow = logo_edge.rounded (narrow_high, narrow_middle, narrow_low)
      across_down_high = MatMulInteger (down_high, narrow)
      across_down_middle = MatMulInteger (down_middle, narrow)
      across_down_low = MatMulInteger (down_low, narrow)
      across_down = logo_edge.rounded (across_down_high, across_down_middle, across_down_low)
    }
  >

  # The background of an image with transparency, and the image laid on it.
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
  laid = Add (ink, shine_through)

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
  upright = Transpose <perm = [1, 2, 0]> (square)
  bytes = Cast <to = 2> (upright)
  pixels = Unsqueeze (bytes, axis_0)

  # Blank where all pixels have one colour.
  brightest = ReduceMax <keepdims = 0> (square, axes_1_2)
  darkest = ReduceMin <keepdims = 0> (square, axes_1_2)
  spreads = Sub (brightest, darkest)
  spread = ReduceMax <keepdims = 0> (spreads)
  is_uniform = Equal (spread, none)
  is_blank = Unsqueeze (is_uniform, axes_0_1)
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


def preprocess_graph(contract: InputContract):
    """An ONNX model: `image` (H, W, 4) uint8 RGBA of straight alpha -> `pixels` (1, size_px, size_px, 3) uint8 RGB and
    `is_blank` (1, 1), whether all of them have one colour.

    An RGB image has an alpha of 255 throughout. Raises MissingExtraError without the package onnx.
    """
    import numpy as np

    constants = {
        "size": np.array([contract.size_px], np.int64),
        "dark_above": np.array(1000 * contract.dark_above_luminance, np.float64),
        "light_background": np.array(contract.light_background, np.int32).reshape(3, 1, 1),
        "dark_background": np.array(contract.dark_background, np.int32).reshape(3, 1, 1),
    }
    return parse_graph(GRAPH.replace("SIZE", str(contract.size_px)), constants)


def parse_graph(text: str, constants: dict):
    """The checked ONNX model of a text in ONNX's own notation, with these arrays as further initializers."""
    try:
        import onnx
        import onnx.parser
    except ImportError as error:
        raise MissingExtraError("triton", "onnx") from error
    model = onnx.parser.parse_model(text.replace("IR_VERSION", str(IR_VERSION)).replace("OPSET", str(OPSET)))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.checker.check_model(model)
    return model
