#include "cli/report/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "core/text.h"

namespace quantfit::cli {
namespace {

constexpr double kWidth = 800, kHeight = 480;
constexpr double kLeft = 70, kRight = 20, kTop = 20, kBottom = 50;
constexpr std::size_t kPoints = 400;
constexpr double kLetter = 7;  // width of one, about

struct Range {
  double least = std::numeric_limits<double>::infinity();
  double most = -std::numeric_limits<double>::infinity();
  void add(double value) {
    least = std::min(least, value);
    most = std::max(most, value);
  }
  // 0 at the least, 1 at the most.
  [[nodiscard]] double share(double value) const {
    return most > least ? (value - least) / (most - least) : 0.5;
  }
};

}  // namespace

std::string to_svg(const FrontierReport& report) {
  std::vector<const StaticReport*> statics;
  // Beyond what anybody compares with the curve would only press the rest together.
  double widest = report.statics.compared.empty() ? std::numeric_limits<double>::infinity() : 0;
  for (const StaticReport& recipe : report.statics.compared) {
    widest = std::max(widest, recipe.bpw + 1);
    if (recipe.predicted_error > 0) statics.push_back(&recipe);
  }
  std::vector<const CurvePoint*> curve;
  for (const std::size_t i : thinned(report.curve.size(), kPoints))
    if (report.curve[i].error > 0 && report.curve[i].bpw <= widest) curve.push_back(&report.curve[i]);
  Range bpw, error;
  for (const CurvePoint* point : curve) {
    bpw.add(point->bpw);
    error.add(std::log10(point->error));
  }
  for (const StaticReport* recipe : statics) {
    bpw.add(recipe->bpw);
    error.add(std::log10(recipe->predicted_error));
  }
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "role=\"img\">\n<title>Size against predicted error</title>\n"
      "<style>text{{font:12px "
      "sans-serif;fill:#57606a}}.n{{fill:#24292f}}.g{{stroke:#8b949e;stroke-opacity:.3}}"
      ".c{{fill:none;stroke:#0969da;stroke-width:2.5}}.s{{fill:#bc4c00}}"
      "@media(prefers-color-scheme:dark){{text{{fill:#9aa7b4}}.n{{fill:#e6edf3}}.c{{stroke:#6cb6ff}}"
      ".s{{fill:#ff9d5c}}}}</style>\n",
      kWidth, kHeight);
  if (!curve.empty() || !statics.empty()) {
    const auto x = [&](double value) { return kLeft + bpw.share(value) * (kWidth - kLeft - kRight); };
    const auto y = [&](double log) { return kTop + (1 - error.share(log)) * (kHeight - kTop - kBottom); };
    constexpr std::array kSteps = {0.25, 0.5, 1.0, 2.0, 4.0};
    double step = kSteps.back();
    for (const double candidate : kSteps)
      if ((bpw.most - bpw.least) / candidate <= 12) {
        step = candidate;
        break;
      }
    for (int i = int(std::ceil(bpw.least / step)); i * step <= bpw.most; ++i)
      svg += fmt::format(
          "<path class=\"g\" d=\"M{0:.1f} {1}V{2}\"/><text x=\"{0:.1f}\" y=\"{3}\" "
          "text-anchor=\"middle\">{4:g}</text>\n",
          x(i * step), kTop, kHeight - kBottom, kHeight - kBottom + 18, i * step);
    for (int power = int(std::ceil(error.least)); power <= error.most; ++power)
      svg += fmt::format(
          "<path class=\"g\" d=\"M{0} {1:.1f}H{2}\"/><text x=\"{3}\" y=\"{4:.1f}\" "
          "text-anchor=\"end\">{5:g}</text>\n",
          kLeft, y(power), kWidth - kRight, kLeft - 6, y(power) + 4, std::pow(10.0, power));
    svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">bits per weight</text>\n",
                       (kLeft + kWidth - kRight) / 2, kHeight - 8);
    const double middle = (kTop + kHeight - kBottom) / 2;
    svg += fmt::format(
        "<text x=\"16\" y=\"{0}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {0})\">{1}</text>\n",
        middle, report.error_unit == "nats" ? "nats of KL divergence" : "predicted error (relative)");
    if (curve.size() > 1) {
      svg += "<path class=\"c\" d=\"";
      for (std::size_t i = 0; i < curve.size(); ++i)
        svg += fmt::format("{}{:.1f} {:.1f}", i == 0 ? 'M' : 'L', x(curve[i]->bpw),
                           y(std::log10(curve[i]->error)));
      svg += "\"/>\n";
    }
    struct Box {
      double left, right, y;
    };
    std::vector<Box> taken;
    for (const StaticReport* recipe : statics) {
      const double px = x(recipe->bpw), py = y(std::log10(recipe->predicted_error));
      svg += fmt::format("<path class=\"s\" d=\"M{:.1f} {:.1f}l5 5l-5 5l-5-5z\"><title>{}</title></path>", px,
                         py - 5, markup_escaped(recipe->name));
      // A name where no other stands yet.
      const Box box{px + 8, px + 8 + kLetter * double(recipe->name.size()), py};
      const bool free =
          box.right < kWidth && std::ranges::none_of(taken, [&](const Box& other) {
            return box.left < other.right && other.left < box.right && std::abs(box.y - other.y) < 12;
          });
      if (free) {
        taken.push_back(box);
        svg += fmt::format("<text class=\"n\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>", box.left, py + 4,
                           markup_escaped(recipe->name));
      }
      svg += '\n';
    }
  }
  return svg + "</svg>\n";
}

}  // namespace quantfit::cli
