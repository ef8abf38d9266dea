// logo-edge-native BUNDLE IMAGE...: one line of JSON for each image. Exit status 0, 1 some failed, 2 usage or bundle.

#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>

#include "image_file.hpp"
#include "logo_edge.hpp"

namespace {

const char* const kUsage =
    "logo-edge-native [OPTIONS] BUNDLE IMAGE...\n\n"
    "Classifies PNG and JPEG files with a logo-edge bundle; prints one line of JSON for each.\n\n"
    "  --mode MODE        best-guess, balanced (default) or strict: how confident a label must be\n"
    "  --threshold SHARE  the lowest confidence for a label, 0 to 1, instead of the mode's\n"
    "  --coverage SHARE   of prediction sets, one of the bundle's levels; 0.95 where it is promised\n"
    "  --threads N        of one forward pass; 1 by default\n\n"
    "Exit status: 0, 1 where an image could not be read, 2 for usage or a bad bundle.\n";

template <typename Value>
nlohmann::ordered_json or_null(const std::optional<Value>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

nlohmann::ordered_json to_json(const logo_edge::Classification& result) {
  nlohmann::ordered_json probabilities = nlohmann::ordered_json::object();
  for (const auto& [label, share] : result.probabilities) probabilities[label] = share;
  nlohmann::ordered_json line = {{"label", or_null(result.label)},
                                 {"best_guess", result.best_guess},
                                 {"confidence", result.confidence},
                                 {"probabilities", probabilities},
                                 {"aleatoric", result.aleatoric},
                                 {"epistemic", or_null(result.epistemic)},
                                 {"prediction_set", or_null(result.prediction_set)},
                                 {"logo_score", result.logo_score},
                                 {"is_logo", result.is_logo},
                                 {"high_confidence", result.high_confidence},
                                 {"low_confidence", result.low_confidence},
                                 {"reason", or_null(result.reason)}};
  if (result.labels) line["labels"] = *result.labels;
  return line;
}

double parse_share(const std::string& text) {
  std::size_t used = 0;
  double value = -1;
  try {
    value = std::stod(text, &used);
  } catch (const std::exception&) {
  }
  if (used == text.size() && 0 <= value && value <= 1) return value;
  throw std::invalid_argument(text + "; expected a number from 0 to 1");
}

}  // namespace

int main(int count, char** arguments) {
  logo_edge::Options options;
  int threads = 1;
  std::vector<std::string> paths;
  try {
    for (int i = 1; i < count; ++i) {
      const std::string argument = arguments[i];
      if (argument == "--help") {
        std::cout << kUsage;
        return 0;
      }
      if (argument.rfind("--", 0) != 0) {
        paths.push_back(argument);
        continue;
      }
      if (i + 1 == count) throw std::invalid_argument(argument + " needs a value");
      const std::string value = arguments[++i];
      if (argument == "--mode") options.mode = value;
      else if (argument == "--threshold") options.threshold = parse_share(value);
      else if (argument == "--coverage") options.coverage = parse_share(value);
      else if (argument == "--threads") threads = std::stoi(value);
      else throw std::invalid_argument(argument + ": no such option");
    }
    if (paths.size() < 2) throw std::invalid_argument("expected a bundle and at least one image");
    const logo_edge::Classifier classifier(paths[0], options, threads);
    bool all_read = true;
    for (std::size_t i = 1; i < paths.size(); ++i) {
      nlohmann::ordered_json line = {{"path", paths[i]}};
      try {
        line.update(to_json(classifier.classify(logo_edge::read_image(paths[i]))));
      } catch (const logo_edge::ImageError& error) {
        line["error"] = error.what();
        all_read = false;
      }
      const auto replace = nlohmann::json::error_handler_t::replace;
      std::cout << line.dump(-1, ' ', false, replace) << std::endl;  // flushed, so that readers see each line at once
    }
    return all_read ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << "logo-edge-native: " << error.what() << "\n(--help shows the usage)\n";
    return 2;
  }
}
