#include "logo_edge.hpp"

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <new>

#include "preprocess.h"
#include "sha256.hpp"

namespace logo_edge {
namespace fs = std::filesystem;
using nlohmann::json;

std::vector<std::uint8_t> preprocess(const Image& image, const InputContract& contract) {
  const int size = contract.size_px;
  std::vector<std::uint8_t> square(static_cast<std::size_t>(size) * size * contract.channels());
  const std::uint8_t *light = contract.light_background.data(), *dark = contract.dark_background.data();
  const int width = image.width, height = image.height;
  thread_local std::vector<std::uint8_t> workspace;
  if (contract.details) workspace.resize(LOGO_EDGE_WORKSPACE_BYTES);
  const int status =
      logo_edge_preprocess(image.rgba.data(), 4, width, height, width, height, size, contract.details, contract.crop,
                           light, dark, contract.dark_above_luminance, square.data(), workspace.data());
  if (status < 0) throw std::bad_alloc();
  if (status > 0) {
    throw ImageError("a side of more than " + std::to_string(LOGO_EDGE_LONGEST_PX) + " pixels; scale it down first");
  }
  return square;
}

// Decisions: see logo_edge.decision.

bool is_blank(const std::vector<std::uint8_t>& pixels, int channels) {
  for (std::size_t i = 0; i < pixels.size(); i += channels) {
    if (!std::equal(pixels.begin(), pixels.begin() + 3, pixels.begin() + i)) return false;
  }
  return true;
}

namespace {

constexpr double kDefaultCoverage = 0.95;
const char* const kDamaged = "; the bundle is damaged, copy or pack it again";
const char* const kModes[] = {"best-guess", "balanced", "strict"};

double log_sum_exp(const std::vector<double>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const double logit : logits) total += std::exp(logit - top);
  return top + std::log(total);
}

std::vector<double> calibrated_probabilities(const std::vector<double>& logits, const Calibration& calibration) {
  std::vector<double> scaled(logits);
  for (double& logit : scaled) logit /= calibration.temperature;
  const bool multi_label = !calibration.label_thresholds.empty();
  if (calibration.scaling) {
    const double total = multi_label ? 0 : log_sum_exp(scaled);
    std::vector<double> mapped(calibration.scaling->bias);
    for (std::size_t i = 0; i < mapped.size(); ++i) {
      const std::vector<double>& weights = calibration.scaling->weight[i];
      for (std::size_t j = 0; j < scaled.size(); ++j) mapped[i] += weights[j] * (scaled[j] - total);
    }
    scaled = mapped;
  }
  if (multi_label) {
    for (double& logit : scaled) logit = 1 / (1 + std::exp(-logit));
    return scaled;
  }
  const double top = *std::max_element(scaled.begin(), scaled.end());
  double total = 0;
  for (double& logit : scaled) total += logit = std::exp(logit - top);
  for (double& share : scaled) share /= total;
  return scaled;
}

/// The labels' indices, the most probable first.
std::vector<std::size_t> by_probability(const std::vector<double>& probabilities) {
  std::vector<std::size_t> order(probabilities.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&probabilities](std::size_t one, std::size_t other) {
    return probabilities[one] > probabilities[other];
  });
  return order;
}

/// The labels that a mode gives to a logo, the most probable first: the best guess or none; multi-label, any number.
std::vector<std::size_t> confident_labels(const Calibration& calibration, const std::vector<double>& probabilities,
                                          const std::string& mode, std::optional<double> threshold = std::nullopt) {
  const auto best = std::max_element(probabilities.begin(), probabilities.end()) - probabilities.begin();
  std::vector<std::size_t> labels;
  if (calibration.label_thresholds.empty()) {
    if (probabilities[best] >= threshold.value_or(calibration.abstain_below.at(mode))) labels.push_back(best);
    return labels;  // none for NaN
  }
  for (const std::size_t label : by_probability(probabilities)) {
    if (probabilities[label] >= threshold.value_or(calibration.label_thresholds.at(mode)[label])) labels.push_back(label);
  }
  return labels;
}

double entropy_of(const std::vector<double>& probabilities, bool multi_label) {
  double entropy = 0;
  for (const double share : probabilities) {
    if (share > 0) entropy -= share * std::log(share);
    if (multi_label && share < 1) entropy -= (1 - share) * std::log(1 - share);
  }
  return entropy;
}

/// The lowest probability of a label in the prediction set; none where no level was given and 0.95 is not promised.
std::optional<double> set_threshold(const Calibration& calibration, std::optional<double> coverage) {
  const double level = coverage.value_or(kDefaultCoverage);
  const auto conformal = std::find_if(calibration.conformal.begin(), calibration.conformal.end(),
                                      [level](const Conformal& candidate) { return candidate.level == level; });
  const bool known = conformal != calibration.conformal.end();
  if (known && conformal->threshold) return conformal->threshold;
  if (!coverage) return std::nullopt;
  throw BundleError("no prediction sets at level " + json(level).dump() +
                    (known ? ": " + conformal->refused : "; it is none of the bundle's levels"));
}

}  // namespace

Classification decide(const std::vector<std::string>& labels, const Calibration& calibration,
                      const std::vector<float>& logits, std::optional<float> epistemic, bool blank,
                      const Options& options) {
  const std::vector<double> wide(logits.begin(), logits.end());
  const auto probabilities = calibrated_probabilities(wide, calibration);
  const auto best = std::max_element(probabilities.begin(), probabilities.end()) - probabilities.begin();
  Classification result;
  result.best_guess = labels[best];
  result.confidence = probabilities[best];
  const bool multi_label = !calibration.label_thresholds.empty();
  for (std::size_t i = 0; i < labels.size(); ++i) result.probabilities.emplace_back(labels[i], probabilities[i]);
  const double entropy = entropy_of(probabilities, multi_label);
  if (epistemic) result.epistemic = std::max(0.0, static_cast<double>(*epistemic));
  result.aleatoric = std::max(0.0, entropy - result.epistemic.value_or(0));
  if (const auto threshold = set_threshold(calibration, options.coverage)) {
    result.prediction_set.emplace();
    for (const std::size_t label : by_probability(probabilities)) {
      if (probabilities[label] >= *threshold) result.prediction_set->push_back(labels[label]);
    }
  }
  result.logo_score = log_sum_exp(wide);
  result.is_logo = !calibration.familiar_above || result.logo_score >= *calibration.familiar_above;
  const bool unfit = blank || !result.is_logo;
  result.high_confidence = !unfit && !confident_labels(calibration, probabilities, "strict").empty();
  result.low_confidence = unfit || confident_labels(calibration, probabilities, "balanced").empty();
  std::vector<std::size_t> given;
  if (unfit && options.mode != "best-guess") {
    result.reason = blank ? "blank" : "not_a_logo";
  } else {
    given = confident_labels(calibration, probabilities, options.mode, options.threshold);
    if (given.empty()) result.reason = multi_label ? "no_label" : "low_confidence";
  }
  if (!given.empty()) result.label = labels[given[0]];
  if (multi_label) {
    result.labels.emplace();
    for (const std::size_t label : given) result.labels->push_back(labels[label]);
  }
  return result;
}

// The bundle: see docs/use/bundle.md.

namespace {

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string data{std::istreambuf_iterator<char>(file), {}};
  if (!file.is_open() || file.bad()) throw BundleError(path.string() + ": cannot be read; expected a file of a bundle");
  return data;
}

void require(bool holds, const std::string& problem) {
  if (!holds) throw BundleError(problem + kDamaged);
}

bool is_share(double value) { return 0 <= value && value <= 1; }

Calibration parse_calibration(const json& table, const std::vector<std::string>& labels) {
  const std::size_t classes = labels.size();
  Calibration calibration;
  table.at("temperature").get_to(calibration.temperature);
  const double temperature = calibration.temperature;
  require(temperature > 0 && std::isfinite(temperature), "calibration: expected a temperature above 0");
  table.at("abstain_below").get_to(calibration.abstain_below);
  double least = 0;
  for (const char* mode : kModes) {
    const double threshold = calibration.abstain_below.at(mode);
    require(least <= threshold && threshold <= 1,
            "calibration.abstain_below: expected from 0 to 1, no mode below the one before");
    least = threshold;
  }
  if (const json& scaling = table.at("scaling"); !scaling.is_null()) {
    calibration.scaling = Scaling{scaling.at("weight"), scaling.at("bias")};
    bool square = calibration.scaling->weight.size() == classes && calibration.scaling->bias.size() == classes;
    for (const auto& row : calibration.scaling->weight) square = square && row.size() == classes;
    require(square, "calibration.scaling: expected a square weight and a bias, one row for each label");
  }
  for (const json& row : table.at("conformal")) {
    Conformal conformal{row.at("level"), std::nullopt, row.at("refused")};
    if (!row.at("threshold").is_null()) conformal.threshold = row.at("threshold").get<double>();
    require(is_share(conformal.level) && is_share(conformal.threshold.value_or(0)),
            "calibration.conformal: expected shares");
    calibration.conformal.push_back(conformal);
  }
  if (const json& familiarity = table.at("familiarity"); !familiarity.is_null()) {
    calibration.familiar_above = familiarity.at("threshold").get<double>();
  }
  if (const json thresholds = table.value("label_thresholds", json()); !thresholds.is_null()) {
    std::vector<double> before(classes, 0);
    for (const char* mode : kModes) {
      for (std::size_t i = 0; i < classes; ++i) {
        const double threshold = thresholds.at(mode).at(labels[i]);
        require(before[i] <= threshold && threshold <= 1,
                "calibration.label_thresholds: expected from 0 to 1 for each label, no mode below the one before");
        before[i] = threshold;
      }
      calibration.label_thresholds[mode] = before;
    }
  }
  return calibration;
}

InputContract parse_input(const json& table) {
  require(table.at("layout") == "NHWC" && table.at("dtype") == "uint8" && table.at("colour") == "RGB",
          "input: expected NHWC, uint8, RGB");
  const auto fit = table.value("fit", std::string("letterbox"));
  require(fit == "letterbox" || fit == "crop", "input: expected fit letterbox or crop");
  InputContract contract{table.at("size_px"), table.at("light_background"), table.at("dark_background"),
                         table.at("dark_above_luminance"), table.value("details", false), fit == "crop"};
  require(8 <= contract.size_px && contract.size_px <= 4096, "input: expected size_px from 8 to 4096");
  return contract;
}

/// The bytes of a file of the bundle. Throws BundleError where its path leaves the folder or its hash is wrong.
std::string read_verified(const fs::path& folder, const std::string& name, const json& expected) {
  const fs::path root = fs::weakly_canonical(folder), path = fs::weakly_canonical(folder / name);
  const bool inside = std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
  require(inside && !name.empty() && name[0] != '/', "files: " + name + " leads out of the bundle");
  std::string data = read_file(path);
  if (sha256(data.data(), data.size()) != expected.at("sha256")) {
    throw BundleError(path.string() + ": not the file that was packed. Copy or pack the bundle again");
  }
  return data;
}

/// The content of bundle.json. Throws BundleError where its hash is not that of bundle.sha256.
std::string read_record(const fs::path& folder) {
  std::string data = read_file(folder / "bundle.json");
  if (read_file(folder / "bundle.sha256") != sha256(data.data(), data.size()) + "  bundle.json\n") {
    throw BundleError("not what bundle.sha256 says. Copy or pack the bundle again");
  }
  return data;
}

/// ONNX Runtime's environment, without telemetry: no device id in the home folder, no reports.
///
/// ONNX Runtime reads the variable once, when the environment is created. A user's own setting stays.
Ort::Env make_environment() {
#ifdef _WIN32
  if (!std::getenv("ORT_DISABLE_TELEMETRY")) _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
  setenv("ORT_DISABLE_TELEMETRY", "1", /* overwrite */ 0);
#endif
  return Ort::Env(ORT_LOGGING_LEVEL_ERROR, "logo-edge");
}

Ort::SessionOptions session_options(int threads) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(threads);
  options.SetInterOpNumThreads(1);
  options.AddConfigEntry("session.intra_op.allow_spinning", "0");  // idle threads use no CPU
  return options;
}

/// The number of values per image in the output of that name; 0 where there is no such output.
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
  Ort::Env env = make_environment();
  Ort::Session session{nullptr};
};

Classifier::Classifier(const std::string& folder, Options options, int threads)
    : loaded_(std::make_unique<Loaded>()), options_(std::move(options)) {
  if (folder.empty()) throw BundleError("found an empty name; expected a bundle's folder. Is a variable not set?");
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
                        " models, which is for servers; this program runs one. Load a bundle of `logo-edge compress "
                        "--target cpu`");
    }
    Loaded& loaded = *loaded_;
    record.at("labels").get_to(loaded.labels);
    require(loaded.labels.size() >= 2, "labels: expected at least two");
    loaded.calibration = parse_calibration(record.at("calibration"), loaded.labels);
    loaded.input = parse_input(record.at("input"));
    const json& model = record.at("model");
    model.at("input_name").get_to(loaded.input_name);
    model.at("output_name").get_to(loaded.output_name);
    loaded.output_names = {loaded.output_name.c_str()};
    for (const json& name : model.value("optional_outputs", json::array())) {
      if (name == "epistemic") loaded.output_names.push_back("epistemic");
    }
    std::string graph;
    for (const auto& [name, file] : record.at("files").items()) {
      std::string data = read_verified(root, name, file);
      if (name == model.at("file")) graph = std::move(data);
    }
    require(!graph.empty(), "files: expected the model's among them");
    loaded.session = Ort::Session(loaded.env, graph.data(), graph.size(), session_options(threads));
    const auto shape = loaded.session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    const std::int64_t size = loaded.input.size_px;
    require(shape.size() == 4 && shape[1] == size && shape[2] == size && shape[3] == loaded.input.channels(),
            "input: the model reads another size or number of channels");
    require(classes_of(loaded.session, loaded.output_name) == static_cast<std::int64_t>(loaded.labels.size()),
            "labels: the model gives another number of classes");
    if (loaded.calibration.abstain_below.count(options_.mode) == 0) {
      throw std::invalid_argument("mode " + options_.mode + "; expected best-guess, balanced or strict");
    }
    set_threshold(loaded.calibration, options_.coverage);
  } catch (const json::parse_error& error) {
    throw BundleError(where + "not JSON (byte " + std::to_string(error.byte) + ")" + kDamaged);
  } catch (const json::exception& error) {
    throw BundleError(where + error.what() + kDamaged);
  } catch (const std::out_of_range& error) {
    throw BundleError(where + "calibration.abstain_below: a mode is missing" + kDamaged);
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
  const std::array<std::int64_t, 4> shape = {1, size, size, loaded.input.channels()};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto input =
      Ort::Value::CreateTensor<std::uint8_t>(memory, pixels.data(), pixels.size(), shape.data(), shape.size());
  const char* const input_name = loaded.input_name.c_str();
  const auto outputs = loaded.session.Run(Ort::RunOptions{nullptr}, &input_name, &input, 1, loaded.output_names.data(),
                                          loaded.output_names.size());
  const float* logits = outputs[0].GetTensorData<float>();
  const auto epistemic = outputs.size() > 1 ? std::optional<float>(*outputs[1].GetTensorData<float>()) : std::nullopt;
  return decide(loaded.labels, loaded.calibration, {logits, logits + loaded.labels.size()}, epistemic,
                is_blank(pixels, loaded.input.channels()), options_);
}

}  // namespace logo_edge
