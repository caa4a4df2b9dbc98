// SPDX-License-Identifier: Apache-2.0
#include "app/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace sluice {
namespace {
constexpr double kWidth = 460, kHeight = 340, kLeft = 64, kRight = 16, kTop = 40, kBottom = 92, kHead = 32;
constexpr const char* kColours[] = {"#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a"};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

// A step of 1, 2 or 5 times a power of ten that cuts `top` into at most six.
double step_of(double top) {
  const double rough = std::max(top, 1e-9) / 5, power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (rough <= factor * power) return factor * power;
  return 10 * power;
}

std::string number(double value) {
  if (value >= 1e6) return fmt::format("{:.4g}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:.4g}k", value / 1e3);
  return std::abs(value) >= 1000 ? fmt::format("{:.0f}", value) : fmt::format("{:.4g}", value);
}

void text(std::string& out, double x, double y, const char* anchor, const std::string& words, const char* more = "") {
  out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" {}>{}</text>\n", x, y, anchor, more,
                     escaped(words));
}

void panel(std::string& out, const PlotPanel& p, double left, double top) {
  const double x0 = left + kLeft, x1 = left + kWidth - kRight, y0 = top + kHeight - kBottom, y1 = top + kTop;
  double most = 0;
  for (const PlotLine& line : p.lines)
    for (size_t i = 0; i < line.y.size(); ++i)
      if (std::isfinite(line.y[i]))
        most =
            std::max(most, line.y[i] + (i < line.spread.size() && std::isfinite(line.spread[i]) ? line.spread[i] : 0));
  const double step = step_of(most), high = std::max(step, std::ceil(most / step) * step);
  const auto x_at = [&](size_t i) {
    return p.x.size() < 2 ? (x0 + x1) / 2
                          : x0 + (x1 - x0) * (static_cast<double>(i) + 0.5) / static_cast<double>(p.x.size());
  };
  const auto y_at = [&](double y) { return y0 - (y0 - y1) * y / high; };
  text(out, (x0 + x1) / 2, top + kTop - 14, "middle", p.title, "font-weight=\"bold\"");
  for (double y = 0; y <= high * 1.0001; y += step) {
    out += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#d0d7de\"/>\n", x0,
                       y_at(y), x1, y_at(y));
    text(out, x0 - 6, y_at(y) + 4, "end", number(y));
  }
  for (size_t i = 0; i < p.x.size(); ++i) text(out, x_at(i), y0 + 16, "middle", number(p.x[i]));
  text(out, (x0 + x1) / 2, y0 + 34, "middle", p.x_name);
  const double turn_y = (y0 + y1) / 2;
  text(out, left + 14, turn_y, "middle", p.y_name,
       fmt::format("transform=\"rotate(-90 {:.1f} {:.1f})\"", left + 14, turn_y).c_str());
  double legend_x = x0;
  for (size_t n = 0; n < p.lines.size(); ++n) {
    const PlotLine& line = p.lines[n];
    const char* colour = kColours[n % std::size(kColours)];
    std::string points;
    const auto flush = [&] {
      if (!points.empty())
        out +=
            fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n", points, colour);
      points.clear();
    };
    for (size_t i = 0; i < line.y.size(); ++i) {
      if (!std::isfinite(line.y[i])) {
        flush();
        continue;
      }
      const double x = x_at(i), y = y_at(line.y[i]);
      points += fmt::format("{:.1f},{:.1f} ", x, y);
      out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", x, y, colour);
      if (i >= line.spread.size() || !std::isfinite(line.spread[i])) continue;
      out += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n", x,
                         y_at(line.y[i] + line.spread[i]), x, y_at(std::max(0.0, line.y[i] - line.spread[i])), colour);
    }
    flush();
    out += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"14\" height=\"4\" fill=\"{}\"/>\n", legend_x, y0 + 54,
                       colour);
    text(out, legend_x + 18, y0 + 60, "start", line.name);
    legend_x += 30 + 7.2 * static_cast<double>(line.name.size());
  }
}

}  // namespace

std::string draw_plot(const std::string& title, const std::vector<PlotPanel>& panels) {
  const double width = kWidth * static_cast<double>(panels.size()), height = kHeight + kHead;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
      "font-family=\"sans-serif\" font-size=\"12\" fill=\"#1f2328\">\n<rect width=\"100%\" height=\"100%\" "
      "fill=\"#ffffff\"/>\n",
      width, height);
  text(out, width / 2, 22, "middle", title, "font-size=\"15\"");
  for (size_t i = 0; i < panels.size(); ++i) panel(out, panels[i], kWidth * static_cast<double>(i), kHead);
  return out + "</svg>\n";
}

}  // namespace sluice
