#include "logo_edge.hpp"

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>

#include "sha256.hpp"

namespace logo_edge {
namespace fs = std::filesystem;
using nlohmann::json;
using Bytes = std::vector<std::uint8_t>;

// Preprocessing: Pillow 13's triangle filter in fixed point, along one axis after the other, each pass rounded to 8 bits.

namespace {

constexpr int kPrecisionBits = 22;
constexpr double kDefaultCoverage = 0.95;
const char* const kModes[] = {"best-guess", "balanced", "strict"};

/// (width, height) after scaling the longer side to `square`; at least 1 each. Halves go to the even number.
std::pair<int, int> letterboxed_size(int width, int height, int square) {
  const auto scale = [square](int side, int longest) {
    return std::max(1, static_cast<int>(std::nearbyint(static_cast<double>(side) * square / longest)));
  };
  if (width >= height) return {square, scale(height, width)};
  return {scale(width, height), square};
}

Bytes premultiply(const Bytes& rgba) {
  Bytes result(rgba);
  for (std::size_t i = 0; i < rgba.size(); i += 4) {
    for (int channel = 0; channel < 3; ++channel) {
      const int product = rgba[i + channel] * rgba[i + 3] + 128;
      result[i + channel] = static_cast<std::uint8_t>(((product >> 8) + product) >> 8);
    }
  }
  return result;
}

struct Taps {
  int first;
  std::vector<int> weights;  // of sum 2 ** 22
};

std::vector<Taps> filter_taps(int from, int to) {
  const double scale = static_cast<double>(from) / to;
  const double support = std::max(scale, 1.0);
  std::vector<Taps> taps(to);
  for (int i = 0; i < to; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(centre - support + 0.5));
    const int last = std::min(from, static_cast<int>(centre + support + 0.5));
    std::vector<double> weights;
    for (int x = first; x < last; ++x) weights.push_back(std::max(0.0, 1 - std::abs((x - centre + 0.5) * (1 / support))));
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    taps[i].first = first;
    for (const double weight : weights) taps[i].weights.push_back(static_cast<int>(0.5 + weight / total * (1 << kPrecisionBits)));
  }
  return taps;
}

/// One pass over `lines` lines of `from` pixels, which become `to` pixels long; `step` and the pitches are in bytes.
Bytes scale_axis(const Bytes& pixels, int from, int to, int lines, std::size_t step, std::size_t from_pitch,
                 std::size_t to_pitch) {
  Bytes result(static_cast<std::size_t>(to) * lines * 4);
  const auto taps = filter_taps(from, to);
  for (int line = 0; line < lines; ++line) {
    for (int i = 0; i < to; ++i) {
      int sums[4] = {1 << (kPrecisionBits - 1), 1 << (kPrecisionBits - 1), 1 << (kPrecisionBits - 1), 1 << (kPrecisionBits - 1)};
      const std::uint8_t* source = &pixels[line * from_pitch + taps[i].first * step];
      for (const int weight : taps[i].weights) {
        for (int channel = 0; channel < 4; ++channel) sums[channel] += source[channel] * weight;
        source += step;
      }
      for (int channel = 0; channel < 4; ++channel) {
        result[line * to_pitch + i * step + channel] = static_cast<std::uint8_t>(std::clamp(sums[channel] >> kPrecisionBits, 0, 255));
      }
    }
  }
  return result;
}

/// (height, width, 4). Rows come first, but for pictures that lose more than twice as much height as width.
Bytes resample(Bytes pixels, int from_width, int from_height, int width, int height) {
  const auto rows = [&](int lines) {
    if (from_width != width) pixels = scale_axis(pixels, from_width, width, lines, 4, from_width * 4UL, width * 4UL);
  };
  const auto columns = [&](int lines) {
    if (from_height != height) pixels = scale_axis(pixels, from_height, height, lines, lines * 4UL, 4, 4);
  };
  if (from_height > height && from_height - height > 2 * (from_width - width)) {
    columns(from_width);
    rows(height);
  } else {
    rows(from_height);
    columns(width);
  }
  return pixels;
}

/// The dark background where the ink is nearly white, else the light one.
std::array<std::uint8_t, 3> pick_background(const Bytes& premultiplied, const InputContract& contract) {
  std::array<std::int64_t, 4> sums{};
  for (std::size_t i = 0; i < premultiplied.size(); ++i) sums[i % 4] += premultiplied[i];
  const auto weighted = static_cast<double>(255 * (299 * sums[0] + 587 * sums[1] + 114 * sums[2]));
  const bool is_light = weighted > static_cast<double>(1000 * sums[3]) * contract.dark_above_luminance;
  return is_light ? contract.dark_background : contract.light_background;
}

/// The median colour of an opaque picture's border; each corner counts twice.
std::array<std::uint8_t, 3> border_colour(const Bytes& rgba, int width, int height) {
  std::array<std::uint8_t, 3> colour{};
  for (int channel = 0; channel < 3; ++channel) {
    std::vector<int> values;
    const auto add = [&](int x, int y) { values.push_back(rgba[(static_cast<std::size_t>(y) * width + x) * 4 + channel]); };
    for (int x = 0; x < width; ++x) add(x, 0), add(x, height - 1);
    for (int y = 0; y < height; ++y) add(0, y), add(width - 1, y);
    std::sort(values.begin(), values.end());
    colour[channel] = static_cast<std::uint8_t>((values[values.size() / 2 - 1] + values[values.size() / 2]) / 2);
  }
  return colour;
}

}  // namespace

std::vector<std::uint8_t> preprocess(const Image& image, const InputContract& contract) {
  const int size = contract.size_px;
  const auto [width, height] = letterboxed_size(image.width, image.height, size);
  bool opaque = true;
  for (std::size_t i = 3; i < image.rgba.size() && opaque; i += 4) opaque = image.rgba[i] == 255;
  Bytes ink = resample(opaque ? image.rgba : premultiply(image.rgba), image.width, image.height, width, height);
  const auto background = opaque ? border_colour(ink, width, height) : pick_background(ink, contract);
  Bytes square(static_cast<std::size_t>(size) * size * 3);
  for (std::size_t i = 0; i < square.size(); ++i) square[i] = background[i % 3];
  const int left = (size - width) / 2, top = (size - height) / 2;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const std::uint8_t* pixel = &ink[(static_cast<std::size_t>(y) * width + x) * 4];
      for (int channel = 0; channel < 3; ++channel) {
        const int shine = opaque ? 0 : ((255 - pixel[3]) * background[channel] + 127) / 255;
        square[(static_cast<std::size_t>(top + y) * size + left + x) * 3 + channel] = static_cast<std::uint8_t>(pixel[channel] + shine);
      }
    }
  }
  return square;
}

// Decisions: see logo_edge.decision.

namespace {

double log_sum_exp(const std::vector<double>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const double logit : logits) total += std::exp(logit - top);
  return top + std::log(total);
}

std::vector<double> calibrated_probabilities(const std::vector<double>& logits, const Calibration& calibration) {
  std::vector<double> scaled(logits);
  for (double& logit : scaled) logit /= calibration.temperature;
  if (calibration.scaling) {
    const double total = log_sum_exp(scaled);
    std::vector<double> mapped(calibration.scaling->bias);
    for (std::size_t i = 0; i < mapped.size(); ++i) {
      for (std::size_t j = 0; j < scaled.size(); ++j) mapped[i] += calibration.scaling->weight[i][j] * (scaled[j] - total);
    }
    scaled = mapped;
  }
  const double top = *std::max_element(scaled.begin(), scaled.end());
  double total = 0;
  for (double& logit : scaled) total += logit = std::exp(logit - top);
  for (double& share : scaled) share /= total;
  return scaled;
}

/// The threshold at which a label joins the set, or nothing where no level was asked for and 0.95 is not promised.
std::optional<double> set_threshold(const Calibration& calibration, std::optional<double> coverage) {
  const double level = coverage.value_or(kDefaultCoverage);
  const auto entry = std::find_if(calibration.conformal.begin(), calibration.conformal.end(),
                                  [level](const Conformal& candidate) { return candidate.level == level; });
  const bool known = entry != calibration.conformal.end();
  if (known && entry->threshold) return entry->threshold;
  if (!coverage) return std::nullopt;
  throw BundleError("no prediction sets at level " + json(level).dump() +
                    (known ? ": " + entry->refused : "; it is none of the bundle's levels"));
}

}  // namespace

Classification decide(const std::vector<std::string>& labels, const Calibration& calibration,
                      const std::vector<float>& logits, std::optional<float> epistemic, const Options& options) {
  const std::vector<double> wide(logits.begin(), logits.end());
  const auto probabilities = calibrated_probabilities(wide, calibration);
  const auto best = std::max_element(probabilities.begin(), probabilities.end()) - probabilities.begin();
  Classification result;
  result.best_guess = labels[best];
  result.confidence = probabilities[best];
  double entropy = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    result.probabilities.emplace_back(labels[i], probabilities[i]);
    if (probabilities[i] > 0) entropy -= probabilities[i] * std::log(probabilities[i]);
  }
  if (epistemic) result.epistemic = std::max(0.0, static_cast<double>(*epistemic));
  result.aleatoric = std::max(0.0, entropy - result.epistemic.value_or(0));
  if (const auto threshold = set_threshold(calibration, options.coverage)) {
    auto ordered = result.probabilities;
    std::stable_sort(ordered.begin(), ordered.end(), [](const auto& one, const auto& other) { return one.second > other.second; });
    result.prediction_set.emplace();
    for (const auto& [label, share] : ordered) {
      if (share >= *threshold) result.prediction_set->push_back(label);
    }
  }
  result.energy = log_sum_exp(wide);
  result.is_logo = !calibration.familiar_above || result.energy >= *calibration.familiar_above;
  result.high_confidence = result.confidence >= calibration.abstain_below.at("strict");
  result.low_confidence = !(result.confidence >= calibration.abstain_below.at("balanced"));
  if (result.confidence >= options.threshold.value_or(calibration.abstain_below.at(options.mode))) {  // false for NaN too
    result.label = result.best_guess;
  } else {
    result.reason = "low_confidence";
  }
  return result;
}

// The bundle: see docs/bundle.md.

namespace {

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string data{std::istreambuf_iterator<char>(file), {}};
  if (!file.is_open() || file.bad()) throw BundleError(path.string() + ": cannot be read; expected a file of a bundle");
  return data;
}

void require(bool holds, const std::string& problem) {
  if (!holds) throw BundleError(problem + "; the bundle is damaged, copy or pack it anew");
}

bool is_share(double value) { return 0 <= value && value <= 1; }

Calibration parse_calibration(const json& table, std::size_t classes) {
  Calibration calibration;
  table.at("temperature").get_to(calibration.temperature);
  require(calibration.temperature > 0 && std::isfinite(calibration.temperature), "calibration: expected a temperature above 0");
  table.at("abstain_below").get_to(calibration.abstain_below);
  double least = 0;
  for (const char* mode : kModes) {
    const double threshold = calibration.abstain_below.at(mode);
    require(least <= threshold && threshold <= 1, "calibration.abstain_below: expected from 0 to 1, no mode below the one before");
    least = threshold;
  }
  if (const json& scaling = table.at("scaling"); !scaling.is_null()) {
    calibration.scaling = Scaling{scaling.at("weight"), scaling.at("bias")};
    bool square = calibration.scaling->weight.size() == classes && calibration.scaling->bias.size() == classes;
    for (const auto& row : calibration.scaling->weight) square = square && row.size() == classes;
    require(square, "calibration.scaling: expected a square weight and a bias, one row for each label");
  }
  for (const json& entry : table.at("conformal")) {
    Conformal conformal{entry.at("level"), std::nullopt, entry.at("refused")};
    if (!entry.at("threshold").is_null()) conformal.threshold = entry.at("threshold").get<double>();
    require(is_share(conformal.level) && is_share(conformal.threshold.value_or(0)), "calibration.conformal: expected shares");
    calibration.conformal.push_back(conformal);
  }
  if (const json& familiarity = table.at("familiarity"); !familiarity.is_null()) {
    calibration.familiar_above = familiarity.at("threshold").get<double>();
  }
  return calibration;
}

InputContract parse_input(const json& table) {
  require(table.at("layout") == "NHWC" && table.at("dtype") == "uint8" && table.at("colour") == "RGB", "input: expected NHWC, uint8, RGB");
  InputContract contract{table.at("size_px"), table.at("light_background"), table.at("dark_background"),
                         table.at("dark_above_luminance")};
  require(8 <= contract.size_px && contract.size_px <= 4096, "input: expected size_px from 8 to 4096");
  return contract;
}

/// The bytes of a file of the bundle, once its path stays inside and its hash is the packed one.
std::string read_verified(const fs::path& folder, const std::string& name, const json& entry) {
  const fs::path root = fs::weakly_canonical(folder), path = fs::weakly_canonical(folder / name);
  const bool inside = std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
  require(inside && !name.empty() && name[0] != '/', "files: " + name + " leads out of the bundle");
  std::string data = read_file(path);
  if (sha256(data.data(), data.size()) != entry.at("sha256")) {
    throw BundleError(path.string() + ": not the file that was packed. Copy or pack the bundle anew");
  }
  return data;
}

/// The content of bundle.json, once bundle.sha256 says that it is what was packed.
std::string read_record(const fs::path& folder) {
  std::string data = read_file(folder / "bundle.json");
  if (read_file(folder / "bundle.sha256") != sha256(data.data(), data.size()) + "  bundle.json\n") {
    throw BundleError("not what bundle.sha256 says. Copy or pack the bundle anew");
  }
  return data;
}

Ort::SessionOptions session_options(int threads) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(threads);
  options.SetInterOpNumThreads(1);
  options.AddConfigEntry("session.intra_op.allow_spinning", "0");  // no core is burnt while idle
  return options;
}

/// How many numbers the output of that name holds for one image; 0 where there is none.
std::int64_t classes_of(const Ort::Session& session, const std::string& name) {
  Ort::AllocatorWithDefaultOptions allocator;
  for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
    if (name == session.GetOutputNameAllocated(i, allocator).get()) {
      return session.GetOutputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape().back();
    }
  }
  return 0;
}

}  // namespace

struct Classifier::Loaded {
  std::vector<std::string> labels;
  Calibration calibration;
  InputContract input;
  std::string input_name, output_name;
  std::vector<const char*> output_names;
  Ort::Env env{ORT_LOGGING_LEVEL_ERROR, "logo-edge"};
  Ort::Session session{nullptr};
};

Classifier::Classifier(const std::string& folder, Options options, int threads)
    : loaded_(std::make_unique<Loaded>()), options_(std::move(options)) {
  const fs::path root(folder);
  const std::string where = (root / "bundle.json").string() + ": ";
  try {
    const json record = json::parse(read_record(root));
    if (record.at("format") != "logo-edge-bundle" || record.at("format_version") != 2) {
      throw BundleError("format " + record.at("format").dump() + ", version " + record.at("format_version").dump() +
                        "; this program reads \"logo-edge-bundle\", version 2");
    }
    if (const std::size_t members = record.value("members", json::array()).size()) {
      throw BundleError("an ensemble of " + std::to_string(members) +
                        " models, which is for servers; this program runs one. Load a bundle of `logo-edge compress --target cpu`");
    }
    Loaded& loaded = *loaded_;
    record.at("labels").get_to(loaded.labels);
    require(loaded.labels.size() >= 2, "labels: expected at least two");
    loaded.calibration = parse_calibration(record.at("calibration"), loaded.labels.size());
    loaded.input = parse_input(record.at("input"));
    const json& model = record.at("model");
    model.at("input_name").get_to(loaded.input_name);
    model.at("output_name").get_to(loaded.output_name);
    loaded.output_names = {loaded.output_name.c_str()};
    for (const json& name : model.value("optional_outputs", json::array())) {
      if (name == "epistemic") loaded.output_names.push_back("epistemic");
    }
    std::string graph;
    for (const auto& [name, entry] : record.at("files").items()) {
      std::string data = read_verified(root, name, entry);
      if (name == model.at("file")) graph = std::move(data);
    }
    require(!graph.empty(), "files: expected the model's among them");
    loaded.session = Ort::Session(loaded.env, graph.data(), graph.size(), session_options(threads));
    const auto shape = loaded.session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    const std::int64_t size = loaded.input.size_px;
    require(shape.size() == 4 && shape[1] == size && shape[2] == size && shape[3] == 3, "input: the model reads another size");
    require(classes_of(loaded.session, loaded.output_name) == static_cast<std::int64_t>(loaded.labels.size()),
            "labels: the model gives another number of classes");
    if (loaded.calibration.abstain_below.count(options_.mode) == 0) {
      throw std::invalid_argument("mode " + options_.mode + "; expected best-guess, balanced or strict");
    }
    set_threshold(loaded.calibration, options_.coverage);
  } catch (const json::parse_error& error) {
    throw BundleError(where + "not JSON (byte " + std::to_string(error.byte) + "); the bundle is damaged, copy or pack it anew");
  } catch (const json::exception& error) {
    throw BundleError(where + error.what() + "; the bundle is damaged, copy or pack it anew");
  } catch (const std::out_of_range& error) {
    throw BundleError(where + "calibration.abstain_below: a mode is missing; the bundle is damaged, copy or pack it anew");
  } catch (const Ort::Exception& error) {
    throw BundleError(where + "ONNX Runtime cannot load the model: " + error.what());
  } catch (const BundleError& error) {
    throw BundleError(where + error.what());
  }
}

Classifier::~Classifier() = default;

const std::vector<std::string>& Classifier::labels() const { return loaded_->labels; }

Classification Classifier::classify(const Image& image) const {
  Loaded& loaded = *loaded_;
  auto pixels = preprocess(image, loaded.input);
  const std::int64_t size = loaded.input.size_px;
  const std::array<std::int64_t, 4> shape = {1, size, size, 3};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto input = Ort::Value::CreateTensor<std::uint8_t>(memory, pixels.data(), pixels.size(), shape.data(), shape.size());
  const char* const input_name = loaded.input_name.c_str();
  const auto outputs = loaded.session.Run(Ort::RunOptions{nullptr}, &input_name, &input, 1, loaded.output_names.data(),
                                          loaded.output_names.size());
  const float* logits = outputs[0].GetTensorData<float>();
  const auto epistemic = outputs.size() > 1 ? std::optional<float>(*outputs[1].GetTensorData<float>()) : std::nullopt;
  return decide(loaded.labels, loaded.calibration, {logits, logits + loaded.labels.size()}, epistemic, options_);
}

}  // namespace logo_edge
