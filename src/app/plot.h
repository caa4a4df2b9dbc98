// SPDX-License-Identifier: Apache-2.0
// Line charts as one SVG file: panels beside each other, each with its own axes. Pure.
#pragma once

#include <string>
#include <vector>

namespace sluice {

struct PlotLine {
  std::string name;
  std::vector<double> y;       // one per x; NaN leaves a gap
  std::vector<double> spread;  // half the height of the bar at each point; may be empty
};
struct PlotPanel {
  std::string title, x_name, y_name;
  std::vector<double> x;  // ascending, drawn at equal distances
  std::vector<PlotLine> lines;
};
std::string draw_plot(const std::string& title, const std::vector<PlotPanel>& panels);

}  // namespace sluice
