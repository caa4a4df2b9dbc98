// SPDX-License-Identifier: Apache-2.0
// A golden checkpoint whose layers are quantised as other programs write them, beside the floats that they mean.
// Written from the formulas of the formats, without the reader's code.
#pragma once

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "model/e4m3.h"
#include "model/run_model.h"
#include "weights/safetensors_file.h"

namespace sluice::test {

inline constexpr const char* kQuantisedKinds[] = {"gptq",       "gptq_act", "gptq_v2",       "gptq8",           "gptq3",
                                                  "gptq2",      "awq",      "awq_symmetric", "rows8",           "fp8",
                                                  "fp8_blocks", "fp8_rows", "fp8_torch",     "fp8_torch_blocks"};

class QuantisedFiles {
 public:
  QuantisedFiles(const std::string& name, const std::string& kind)
      : golden(read_golden(name)), meant(golden), kind_(kind), from_(Checkpoint::open(golden.folder, "")) {
    nlohmann::json config = nlohmann::json::parse(read_file(golden.folder / "config.json"));
    for (const CheckpointTensor& tensor : from_.tensors()) {
      const std::vector<float> values = read_floats(from_, tensor.name);
      if (tensor.shape.size() == 2 && tensor.name.ends_with("_proj.weight")) {
        const std::vector<float> floats =
            write(tensor.name.substr(0, tensor.name.size() - 7), tensor.shape[0], tensor.shape[1], values);
        add(meant_, tensor.name, "F32", tensor.shape, floats);
        continue;
      }
      add(stored_, tensor.name, "F32", tensor.shape, values);
      add(meant_, tensor.name, "F32", tensor.shape, values);
    }
    config["torch_dtype"] = "float32";
    meant.folder = finish(meant_folder_, config, meant_);
    nlohmann::json how = {
        {"quant_method", "gptq"}, {"bits", bits()}, {"group_size", kGroup}, {"desc_act", kind == "gptq_act"}};
    if (kind == "gptq_v2") how["checkpoint_format"] = "gptq_v2";
    if (awq()) {
      how = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", kGroup}, {"version", "gemm"}};
      how["zero_point"] = !symmetric();
    }
    if (kind == "rows8") how = {{"quant_method", "bitsandbytes"}, {"load_in_8bit", true}};
    if (fp8()) how = {{"quant_method", "fp8"}};
    if (kind == "fp8_blocks") how["weight_block_size"] = {kBlockRows, kBlockCols};
    if (kind == "fp8_rows") how["quant_method"] = "fbgemm_fp8";
    if (kind.starts_with("fp8_torch")) how = {{"quant_method", "compressed-tensors"}, {"format", "float-quantized"}};
    if (kind == "fp8_torch_blocks")
      how["config_groups"]["group_0"]["weights"] = {{"strategy", "block"},
                                                    {"block_structure", {kBlockRows, kBlockCols}}};
    config["quantization_config"] = how;
    golden.folder = finish(stored_folder_, config, stored_);
  }
  // Whether the backend holds layers whose groups no rank cuts as they are.
  bool stays(const Backend& backend) const { return !fp8() || backend.packs(Scheme::kFp8); }

  Golden golden, meant;

 private:
  static constexpr int64_t kGroup = 32, kBlockRows = 16, kBlockCols = 32;
  bool fp8() const { return kind_.starts_with("fp8"); }
  bool awq() const { return kind_.starts_with("awq"); }
  bool symmetric() const { return kind_ == "awq_symmetric"; }  // every zero is the middle
  int bits() const { return kind_ == "gptq8" ? 8 : kind_ == "gptq3" ? 3 : kind_ == "gptq2" ? 2 : 4; }

  template <class T>
  static void add(std::vector<NamedTensor>& to, const std::string& name, const char* dtype,
                  const std::vector<int64_t>& shape, const std::vector<T>& values) {
    to.push_back(
        {name, dtype, shape, std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T))});
  }
  static std::filesystem::path finish(const TemporaryFolder& folder, const nlohmann::json& config,
                                      const std::vector<NamedTensor>& tensors) {
    folder.write("config.json", config.dump());
    folder.write("model.safetensors", safetensors_bytes(tensors));
    return folder.path();
  }

  // Rounds a layer, stores it and returns what it means.
  std::vector<float> write(const std::string& name, int64_t rows, int64_t cols, const std::vector<float>& values) {
    if (kind_ == "rows8" || fp8()) return write_bytes(name, rows, cols, values);
    const int64_t groups = cols / kGroup, top = (1 << bits()) - 1;
    const auto at = [](int64_t r, int64_t c, int64_t width) { return static_cast<size_t>(r * width + c); };
    std::vector<int32_t> index(static_cast<size_t>(cols));
    for (int64_t k = 0; k < cols; ++k)
      index[static_cast<size_t>(k)] = static_cast<int32_t>(kind_ == "gptq_act" ? k % groups : k / kGroup);
    std::vector<float> low(static_cast<size_t>(groups * rows)), high(low), meaning(values.size());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < cols; ++k) {
        const size_t g = at(index[static_cast<size_t>(k)], r, rows);
        low[g] = std::min(low[g], values[at(r, k, cols)]), high[g] = std::max(high[g], values[at(r, k, cols)]);
      }
    }
    std::vector<uint32_t> numbers(awq() ? at(cols, 0, rows / 8) : at(cols * bits() / 32, 0, rows)),
        zeros(at(groups, 0, rows * bits() / 32));
    std::vector<uint16_t> scales(low.size());
    // Puts field i of a line of words that lie `stride` apart.
    const auto put = [&](uint32_t* words, int64_t stride, int64_t i, uint64_t value) {
      const int64_t bit = i * bits();
      words[bit / 32 * stride] |= static_cast<uint32_t>(value << bit % 32);
      if (bit % 32 + bits() > 32) words[(bit / 32 + 1) * stride] |= static_cast<uint32_t>(value << bit % 32 >> 32);
    };
    constexpr int64_t kPlace[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of a column in AWQ's words
    const auto awq_place = [&](int64_t r) { return r / 8 * 8 + kPlace[r % 8]; };
    std::vector<int64_t> zero(low.size());
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t r = 0; r < rows; ++r) {
        const size_t i = at(g, r, rows);
        if (symmetric()) low[i] = std::min(low[i], -high[i]) * 8 / 7, high[i] = -7 * low[i] / 8;
        scales[i] = f32_to_f16((high[i] - low[i]) / static_cast<float>(top));
        zero[i] = std::clamp<int64_t>(std::lround(-low[i] / f16_to_f32(scales[i])), 0, top);
        const bool less_one = !awq() && kind_ != "gptq_v2";
        put(zeros.data() + at(g, 0, rows * bits() / 32), 1, awq() ? awq_place(r) : r,
            static_cast<uint64_t>((zero[i] - less_one) & top));
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < cols; ++k) {
        const size_t i = at(index[static_cast<size_t>(k)], r, rows);
        const float scale = f16_to_f32(scales[i]);
        const int64_t q = std::clamp<int64_t>(std::lround(values[at(r, k, cols)] / scale) + zero[i], 0, top);
        meaning[at(r, k, cols)] = static_cast<float>(q - zero[i]) * scale;
        if (awq()) {
          put(numbers.data() + at(k, 0, rows / 8), 1, awq_place(r), static_cast<uint64_t>(q));
        } else {
          put(numbers.data() + r, rows, k, static_cast<uint64_t>(q));
        }
      }
    }
    add(stored_, name + ".qweight", "I32",
        awq() ? std::vector<int64_t>{cols, rows / 8} : std::vector<int64_t>{cols * bits() / 32, rows}, numbers);
    add(stored_, name + ".qzeros", "I32", {groups, rows * bits() / 32}, zeros);
    add(stored_, name + ".scales", "F16", {groups, rows}, scales);
    if (!awq()) add(stored_, name + ".g_idx", "I32", {cols}, index);
    return meaning;
  }

  std::vector<float> write_bytes(const std::string& name, int64_t rows, int64_t cols,
                                 const std::vector<float>& values) {
    const bool rows8 = kind_ == "rows8";
    const int64_t down = kind_.ends_with("blocks") ? kBlockRows : kind_ == "fp8" || kind_ == "fp8_torch" ? rows : 1;
    const int64_t across = kind_.ends_with("blocks") ? kBlockCols : cols, width = cols / across;
    std::vector<float> scales(static_cast<size_t>(rows / down * width)), meaning(values.size());
    const auto scale = [&](int64_t r, int64_t k) -> float& {
      return scales[static_cast<size_t>(r / down * width + k / across)];
    };
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < cols; ++k)
        scale(r, k) = std::max(scale(r, k), std::abs(values[static_cast<size_t>(r * cols + k)]));
    for (float& s : scales) s /= rows8 ? 127.0f : 448.0f;
    std::vector<int8_t> numbers;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < cols; ++k) {
        const float wanted = values[static_cast<size_t>(r * cols + k)] / scale(r, k);
        int best = 0;
        if (rows8) {
          best = static_cast<int>(std::lround(wanted));
        } else {
          for (int bits = 1; bits < 255; ++bits)
            if ((bits & 127) != 127 && std::abs(e4m3(bits) - wanted) < std::abs(e4m3(best) - wanted)) best = bits;
        }
        numbers.push_back(static_cast<int8_t>(best));
        meaning[static_cast<size_t>(r * cols + k)] = (rows8 ? static_cast<float>(best) : e4m3(best)) * scale(r, k);
      }
    }
    if (rows8)
      for (float& s : scales) s *= 127.0f;
    add(stored_, name + ".weight", rows8 ? "I8" : "F8_E4M3", {rows, cols}, numbers);
    if (rows8) {
      add(stored_, name + ".SCB", "F32", {rows}, scales);
    } else if (kind_.ends_with("blocks")) {
      add(stored_, name + (kind_ == "fp8_blocks" ? ".weight_scale_inv" : ".weight_scale"), "F32", {rows / down, width},
          scales);
    } else {
      add(stored_, name + ".weight_scale", "F32",
          kind_ == "fp8_rows" ? std::vector<int64_t>{rows, 1} : std::vector<int64_t>{1}, scales);
    }
    return meaning;
  }

  std::string kind_;
  Checkpoint from_;
  TemporaryFolder stored_folder_, meant_folder_;
  std::vector<NamedTensor> stored_, meant_;
};

}  // namespace sluice::test
