// SPDX-License-Identifier: Apache-2.0
#include "weights/faster_transformer.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace sluice {
namespace {
namespace fs = std::filesystem;

struct Ini {
  std::string origin;
  std::map<std::string, std::string> values;  // of the section [gpt]

  std::string text(const std::string& key, const std::string& fallback) const {
    const auto found = values.find(key);
    return found == values.end() ? fallback : found->second;
  }
  int64_t number(const std::string& key, int64_t fallback, int64_t low, int64_t high) const {
    const auto found = values.find(key);
    if (found == values.end() && fallback >= low) return fallback;
    const std::string value = found == values.end() ? "missing" : found->second;
    int64_t out = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), out);
    if (error != std::errc() || end != value.data() + value.size() || out < low || out > high)
      throw Error(
          fmt::format("{}: [gpt] {} is {}, expected a whole number from {} to {}", origin, key, value, low, high));
    return out;
  }
};

std::string trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  return begin == std::string_view::npos ? ""
                                         : std::string(text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1));
}

Ini read_ini(const fs::path& folder) {
  Ini out;
  out.origin = (folder / "config.ini").string();
  const std::string content = read_file(folder / "config.ini");
  std::string section, other;
  for (std::string_view rest = content; !rest.empty();) {
    const size_t end = rest.find('\n');
    const std::string line = trimmed(rest.substr(0, end));
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (line.empty() || line[0] == '#' || line[0] == ';') continue;
    if (line[0] == '[') {
      section = line;
      if (section != "[gpt]") other = section;
      continue;
    }
    const size_t equals = line.find_first_of("=:");
    if (equals == std::string::npos) throw Error(fmt::format("{}: \"{}\" is not KEY = VALUE", out.origin, line));
    if (section == "[gpt]") out.values[trimmed(line.substr(0, equals))] = trimmed(line.substr(equals + 1));
  }
  if (out.values.empty()) {
    throw Error(fmt::format("{} has no section [gpt]{}; expected the folder of a GPT model", out.origin,
                            other.empty() ? "" : ", but " + other));
  }
  return out;
}

struct Sizes {
  int64_t heads, head_size, width, inner, layers, positions, vocab, tp;
  std::string dtype;  // as safetensors names it
};

Sizes read_sizes(const Ini& ini) {
  constexpr int64_t kMany = int64_t{1} << 24;
  Sizes s{};
  s.heads = ini.number("head_num", -1, 1, 65536);
  s.head_size = ini.number("size_per_head", -1, 1, 65536);
  s.width = s.heads * s.head_size;
  s.inner = ini.number("inter_size", -1, 1, kMany);
  s.layers = ini.number("num_layer", -1, 1, 10000);
  s.positions = ini.number("max_pos_seq_len", -1, 1, kMany);
  s.vocab = ini.number("vocab_size", -1, 1, kMany);
  s.tp = ini.number("tensor_para_size", 1, 1, 4096);
  const std::string dtype = ini.text("weight_data_type", "fp32");
  if (dtype != "fp32" && dtype != "fp16")
    throw Error(fmt::format("{}: [gpt] weight_data_type is {}, expected fp32 or fp16", ini.origin, dtype));
  s.dtype = dtype == "fp32" ? "F32" : "F16";
  if (s.heads % s.tp != 0 || s.inner % s.tp != 0)
    throw Error(fmt::format("{}: [gpt] tensor_para_size is {}, expected a divisor of {} heads and of {}", ini.origin,
                            s.tp, s.heads, s.inner));
  return s;
}

class Folder {
 public:
  Folder(fs::path folder, std::string base_prefix)
      : folder_(std::move(folder)), sizes_(read_sizes(read_ini(folder_))), out_(folder_, std::move(base_prefix)) {}

  Checkpoint open() {
    const Sizes& s = sizes_;
    const int64_t h = s.width, part = h / s.tp;
    whole("model.wte.bin", "transformer.wte.weight", {s.vocab, h});
    whole("model.wpe.bin", "transformer.wpe.weight", {s.positions, h});
    whole("model.final_layernorm.weight.bin", "transformer.ln_f.weight", {h});
    whole("model.final_layernorm.bias.bin", "transformer.ln_f.bias", {h});
    if (fs::exists(folder_ / "model.lm_head.weight.bin"))
      whole("model.lm_head.weight.bin", "lm_head.weight", {s.vocab, h});
    for (int64_t i = 0; i < s.layers; ++i) {
      const std::string from = fmt::format("model.layers.{}.", i), to = fmt::format("transformer.h.{}.", i);
      for (const char* end : {"weight", "bias"}) {
        whole(from + "input_layernorm." + end + ".bin", to + "ln_1." + end, {h});
        whole(from + "post_attention_layernorm." + end + ".bin", to + "ln_2." + end, {h});
      }
      // [in][q, k, v][in of the rank]: columns of three blocks.
      split(from + "attention.query_key_value.weight", to + "attn.c_attn.weight", {h, 3 * h}, 1, 3);
      split(from + "attention.query_key_value.bias", to + "attn.c_attn.bias", {3 * h}, 0, 3);
      split(from + "attention.dense.weight", to + "attn.c_proj.weight", {h, h}, 0, 1);
      whole(from + "attention.dense.bias.bin", to + "attn.c_proj.bias", {h});
      split(from + "mlp.dense_h_to_4h.weight", to + "mlp.c_fc.weight", {h, s.inner}, 1, 1);
      split(from + "mlp.dense_h_to_4h.bias", to + "mlp.c_fc.bias", {s.inner}, 0, 1);
      split(from + "mlp.dense_4h_to_h.weight", to + "mlp.c_proj.weight", {s.inner, h}, 0, 1);
      whole(from + "mlp.dense_4h_to_h.bias.bin", to + "mlp.c_proj.bias", {h});
    }
    check(part > 0, "a rank holds heads");
    return out_.take();
  }

 private:
  // One file that must hold exactly these numbers.
  CheckpointTensor tensor(const std::string& file, std::vector<int64_t> shape) {
    if (!fs::exists(folder_ / file))
      throw Error(fmt::format("{} lacks {}, which config.ini promises", folder_.string(), file));
    CheckpointTensor out;
    out.file = out_.add_file(File::open_read(folder_ / file));
    out.stored_dtype = sizes_.dtype;
    out.bytes = sizes_.dtype == "F32" ? 4 : 2;
    for (const int64_t n : shape) out.bytes *= static_cast<uint64_t>(n);
    out.shape = std::move(shape);
    const uint64_t found = out_.file(out.file).size();
    if (found != out.bytes) {
      throw Error(fmt::format("{} has {} bytes, expected {} of shape [{}] in {}", (folder_ / file).string(), found,
                              out.bytes, fmt::join(out.shape, ", "), sizes_.dtype));
    }
    return out;
  }
  void whole(const std::string& file, const std::string& name, std::vector<int64_t> shape) {
    CheckpointTensor out = tensor(file, std::move(shape));
    out.name = name;
    out_.add(std::move(out));
  }
  // A file FILE.R.bin per rank: its share of dimension `dim`, of each of `blocks` equal blocks of it.
  void split(const std::string& file, const std::string& name, const std::vector<int64_t>& shape, size_t dim,
             int64_t blocks) {
    CheckpointTensor out;
    out.name = name;
    out.stored_dtype = sizes_.dtype;
    out.shape = shape;
    const int64_t run = shape[dim] / blocks / sizes_.tp;
    const uint64_t element = sizes_.dtype == "F32" ? 4 : 2;
    for (int64_t r = 0; r < sizes_.tp; ++r) {
      std::vector<int64_t> own = shape;
      own[dim] = blocks * run;
      const CheckpointTensor whole = tensor(fmt::format("{}.{}.bin", file, r), own);
      for (int64_t b = 0; b < blocks; ++b) {
        CheckpointTensor piece = whole;
        piece.shape[dim] = run;
        const bool columns = dim == 1;
        const uint64_t skip = static_cast<uint64_t>(b * run) * element;
        piece.offset += columns || shape.size() == 1 ? skip : skip * static_cast<uint64_t>(shape[1]);
        if (columns) piece.row_stride = own[1];
        piece.bytes = whole.bytes / static_cast<uint64_t>(blocks);
        const int64_t to = b * run * sizes_.tp + r * run;
        out.pieces.push_back({std::move(piece), columns ? 0 : to, columns ? to : 0});
      }
    }
    out_.add(std::move(out));
  }

  fs::path folder_;
  Sizes sizes_;
  CheckpointBuilder out_;
};
}  // namespace

fs::path faster_transformer_folder(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_regular_file(path / "config.ini", ignored)) return path;
  fs::path found;
  for (const auto& item : fs::directory_iterator(path, ignored)) {
    if (item.path().filename().string().ends_with("-gpu") && fs::is_regular_file(item.path() / "config.ini", ignored)) {
      if (!found.empty())
        throw Error(fmt::format("{} holds both {} and {}; name one of them", path.string(), found.filename().string(),
                                item.path().filename().string()));
      found = item.path();
    }
  }
  return found;
}

std::string faster_transformer_config(const fs::path& folder) {
  const Ini ini = read_ini(folder);
  const Sizes s = read_sizes(ini);
  nlohmann::ordered_json out = {{"architectures", {"GPT2LMHeadModel"}},
                                {"model_type", "gpt2"},
                                {"torch_dtype", s.dtype == "F32" ? "float32" : "float16"},
                                {"vocab_size", s.vocab},
                                {"n_embd", s.width},
                                {"n_layer", s.layers},
                                {"n_head", s.heads},
                                {"n_positions", s.positions},
                                {"n_inner", s.inner},
                                {"activation_function", "gelu_new"},
                                {"layer_norm_epsilon", 1e-5},
                                {"tie_word_embeddings", !fs::exists(folder / "model.lm_head.weight.bin")}};
  if (ini.values.contains("start_id")) out["bos_token_id"] = ini.number("start_id", 0, 0, s.vocab - 1);
  if (ini.values.contains("end_id")) out["eos_token_id"] = ini.number("end_id", 0, 0, s.vocab - 1);
  return out.dump();
}

Checkpoint open_faster_transformer(const fs::path& folder, std::string base_prefix) {
  return Folder(folder, std::move(base_prefix)).open();
}

}  // namespace sluice
