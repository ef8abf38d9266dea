// contract size IMAGE...: a line "WIDTH HEIGHT" each, or why it is refused. contract preprocess SIZE_PX DETAILS CROP IMAGE...: their pixels, one after the other, with detail planes where DETAILS is 1, of the central square where CROP is 1; contract is_blank SIZE_PX DETAILS CROP IMAGE...: 1 or 0 for each. contract decide VECTORS: a JSON array of decisions.

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "image_file.hpp"
#include "logo_edge.hpp"

namespace {

nlohmann::json decide(const nlohmann::json& vector) {
  logo_edge::Calibration calibration;
  calibration.temperature = vector.at("temperature");
  calibration.abstain_below = {{"best-guess", 0}, {"balanced", vector.at("abstain_below")}, {"strict", vector.at("strict_below")}};
  if (const auto& scaling = vector.at("scaling"); !scaling.is_null()) {
    calibration.scaling = logo_edge::Scaling{scaling.at("weight"), scaling.at("bias")};
  }
  if (const auto& thresholds = vector.value("label_thresholds", nlohmann::json()); !thresholds.is_null()) {
    for (const auto& [mode, by_label] : thresholds.items()) {
      for (const auto& label : vector.at("labels")) calibration.label_thresholds[mode].push_back(by_label.at(label.get<std::string>()));
    }
  }
  if (!vector.at("not_a_logo_below").is_null()) calibration.familiar_above = vector.at("not_a_logo_below").get<double>();
  logo_edge::Options options;
  options.mode = vector.at("mode");
  if (vector.contains("threshold") && !vector.at("threshold").is_null()) options.threshold = vector.at("threshold").get<double>();
  const auto decision = logo_edge::decide(vector.at("labels"), calibration, vector.at("logits"), std::nullopt, vector.at("blank"), options);
  return {{"labels", decision.labels ? nlohmann::json(*decision.labels) : nlohmann::json()},
          {"entropy", decision.aleatoric},
          {"label", decision.label ? nlohmann::json(*decision.label) : nlohmann::json()},
          {"best_guess", decision.best_guess},
          {"reason", decision.reason ? nlohmann::json(*decision.reason) : nlohmann::json()},
          {"confidence", decision.confidence},
          {"logo_score", decision.logo_score},
          {"is_logo", decision.is_logo},
          {"high_confidence", decision.high_confidence},
          {"low_confidence", decision.low_confidence},
          {"has_set", decision.prediction_set.has_value()}};
}

}  // namespace

int main(int, char** arguments) {
  if (std::string(arguments[1]) == "decide") {
    std::ifstream file(arguments[2]);
    auto decisions = nlohmann::json::array();
    const auto record = nlohmann::json::parse(file);
    for (const auto& vector : record.at("vectors")) decisions.push_back(decide(vector));
    std::cout << decisions;
    return 0;
  }
  if (std::string(arguments[1]) == "size") {
    for (char** path = arguments + 2; *path != nullptr; ++path) {
      try {
        const auto image = logo_edge::read_image(*path);
        std::cout << image.width << ' ' << image.height << '\n';
      } catch (const logo_edge::ImageError& error) {
        std::cout << error.what() << '\n';
      }
    }
    return 0;
  }
  const bool asks_blank = std::string(arguments[1]) == "is_blank";
  const logo_edge::InputContract contract{std::stoi(arguments[2]), {255, 255, 255}, {60, 60, 60}, 225, std::stoi(arguments[3]) == 1, std::stoi(arguments[4]) == 1};
  for (char** path = arguments + 5; *path != nullptr; ++path) {
    const auto pixels = logo_edge::preprocess(logo_edge::read_image(*path), contract);
    if (asks_blank) std::cout << logo_edge::is_blank(pixels, contract.channels());
    else std::cout.write(reinterpret_cast<const char*>(pixels.data()), static_cast<std::streamsize>(pixels.size()));
  }
}
