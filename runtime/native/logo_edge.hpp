// A logo-edge bundle in C++17: the files, preprocessing and decisions of the Python runtime. See docs/use/devices.md.
//
//     #include <image_file.hpp>  // reads PNG and JPEG; not needed for pixels in memory
//     #include <iostream>
//     #include <logo_edge.hpp>
//
//     int main(int, char** arguments) {
//       const logo_edge::Classifier classifier(arguments[1], {/* mode */ "strict"});  // a bundle's folder
//       const auto result = classifier.classify(logo_edge::read_image(arguments[2]));
//       if (result.label) {
//         std::cout << *result.label << ", confidence " << result.confidence << "\n";
//       } else {
//         std::cout << "no label (" << *result.reason << "), best guess " << result.best_guess << "\n";
//       }
//     }
//
// CMake: find_package(logo_edge), or add_subdirectory of a copied folder, then
// target_link_libraries(program PRIVATE logo_edge::logo_edge).
//
// Threads may share a Classifier, which is immutable; all functions here are thread-safe. Results are values and stay
// valid without it. A Classifier is neither copied nor moved. Errors are exceptions, named at each function.
#pragma once

#define LOGO_EDGE_VERSION "0.1.0"  // written by .ci/version.py

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace logo_edge {

/// A bundle is missing, damaged, of another format, or has no such level of prediction sets.
struct BundleError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// One input is no readable image.
struct ImageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Upright pixels, (height, width, 4) RGBA with straight alpha.
struct Image {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> rgba;
};

/// The input of a model: see `logo_edge.preprocess.InputContract`.
struct InputContract {
  int size_px = 0;
  std::array<std::uint8_t, 3> light_background{};
  std::array<std::uint8_t, 3> dark_background{};
  double dark_above_luminance = 0;
  bool details = false;
  bool crop = false;  // the record's fit: crop, not letterbox

  int channels() const { return details ? 7 : 3; }
};

/// Split conformal prediction sets at one level; the threshold is absent where calib is too small, `refused` says why.
struct Conformal {
  double level = 0;
  std::optional<double> threshold;
  std::string refused;
};

/// An affine map of log-probabilities, multi-label of logits: weight (K, K), bias (K).
struct Scaling {
  std::vector<std::vector<double>> weight;
  std::vector<double> bias;
};

/// See `logo_edge.bundle.calibration`. `abstain_below` is by mode: best-guess, balanced, strict.
struct Calibration {
  double temperature = 1;
  std::map<std::string, double> abstain_below;
  std::optional<Scaling> scaling;
  std::vector<Conformal> conformal;
  std::optional<double> familiar_above;  // logo score
  // of a multi-label bundle: by mode, the lowest probability of each label, in the order of the labels; else empty
  std::map<std::string, std::vector<double>> label_thresholds;
};

/// How confident a label must be, and the level of prediction sets.
struct Options {
  std::string mode = "balanced";
  std::optional<double> threshold;  // confidence, instead of the mode's
  std::optional<double> coverage;   // default 0.95, where the bundle can promise it
};

/// The classification of one image. Entropies are in nats.
struct Classification {
  std::optional<std::string> label;  // none where it abstains; `reason` says why
  std::string best_guess;
  double confidence = 0;  // calibrated probability of the best guess
  std::vector<std::pair<std::string, double>> probabilities;
  double aleatoric = 0;
  std::optional<double> epistemic;
  std::optional<std::vector<std::string>> prediction_set;
  double logo_score = 0;  // log-odds in nats that the image is a logo
  bool is_logo = true;
  bool high_confidence = false;
  bool low_confidence = false;
  std::optional<std::string> reason;  // blank, not_a_logo, low_confidence or, multi-label, no_label
  // of a multi-label bundle: those that reach their thresholds, the most probable first; `label` is the first
  std::optional<std::vector<std::string>> labels;
};

/// The image as the model reads it, (size_px, size_px, channels) uint8: RGB, then the detail planes if any. Equal to
/// `logo_edge.preprocess` to the byte.
std::vector<std::uint8_t> preprocess(const Image& image, const InputContract& contract);

/// Whether the image is blank: all pixels of `preprocess` have one RGB colour. `channels` is that of the contract.
bool is_blank(const std::vector<std::uint8_t>& pixels, int channels);

/// The decision on (K) logits before temperature; `epistemic` in nats, where the graph estimates it. Only best-guess
/// gives a label to an image that is `blank` or no logo.
Classification decide(const std::vector<std::string>& labels, const Calibration& calibration,
                      const std::vector<float>& logits, std::optional<float> epistemic, bool blank,
                      const Options& options);

/// A bundle in memory, every file's hash checked; may be shared by threads.
class Classifier {
 public:
  /// Throws BundleError if the folder holds no intact bundle of format 2 or the bundle lacks `options.coverage`,
  /// std::invalid_argument for an unknown mode. `options.threshold` must be 0 to 1.
  explicit Classifier(const std::string& folder, Options options = {}, int threads = 1);
  ~Classifier();

  /// Throws ImageError if a side is above 65,536 px, Ort::Exception if the model cannot run.
  Classification classify(const Image& image) const;
  const std::vector<std::string>& labels() const;

 private:
  struct Loaded;
  std::unique_ptr<Loaded> loaded_;
  Options options_;
};

}  // namespace logo_edge
