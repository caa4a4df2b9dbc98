// SPDX-License-Identifier: Apache-2.0
// sluice convert MODEL OUT: any checkpoint that is read, written as safetensors in Hugging Face layout; on request in
// another dtype, or quantised so that loading rounds nothing. With --tp or --pp: packed for the ranks of that layout.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/convert_packed.h"
#include "app/options.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "backend/quantise.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "model/family.h"
#include "weights/convert.h"
#include "weights/foreign.h"
#include "weights/nemo.h"
#include "weights/packed.h"
#include "weights/safetensors.h"
#include "weights/write.h"

namespace sluice {
namespace {
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct ConvertOptions {
  Settings settings = make_settings({Topic::kModel});
  std::string model, out;
  double shard_gb = 5;
  int tp = 0, pp = 0, threads = 0;  // 0: not given
  std::string experts = "auto", device;
  bool packed() const { return tp > 0 || pp > 0; }
};

// One tensor of the source and what becomes of it.
struct Conversion {
  enum class Kind { kCopy, kFloat, kInt8, kInt4 };
  const CheckpointTensor* from = nullptr;
  Kind kind = Kind::kCopy;
  bool transposed = false;  // the source is [in, out]
  std::vector<WrittenTensor> to;
};

// "model.layers.3.mlp.up_proj.weight" has a number among its parts, embeddings and heads have none.
bool within_layer(const std::string& name) {
  for (size_t at = name.find('.'); at != std::string::npos; at = name.find('.', at + 1)) {
    if (at + 1 < name.size() && std::isdigit(static_cast<unsigned char>(name[at + 1])) != 0) return true;
  }
  return false;
}

// A linear layer's matrix, and not a table, a norm or a router.
bool is_product(const CheckpointTensor& tensor, const FileNames& names) {
  if (tensor.shape.size() != 2 || !tensor.name.ends_with(".weight")) return false;
  if (tensor.stored_dtype != "F32" && tensor.stored_dtype != "BF16" && tensor.stored_dtype != "F16") return false;
  if (!within_layer(tensor.name)) return tensor.name == names.head;
  return std::none_of(names.kept.begin(), names.kept.end(),
                      [&](const std::string& end) { return tensor.name.ends_with(end); });
}

// From here on embedding and head are two matrices.
void untie(Json& config, const std::string& key) {
  config[key] = false;
  if (config.contains("text_config") && config["text_config"].contains(key)) config["text_config"][key] = false;
}

Conversion plan(const CheckpointTensor& tensor, const std::string& quantise, const std::string& dtype,
                const FileNames& names) {
  Conversion out;
  out.from = &tensor;
  const bool floating = tensor.stored_dtype == "F32" || tensor.stored_dtype == "BF16" || tensor.stored_dtype == "F16" ||
                        tensor.stored_dtype == "F64";
  if (!quantise.empty() && is_product(tensor, names)) {
    out.transposed = names.transposed && within_layer(tensor.name);
    const int64_t rows = tensor.shape[out.transposed ? 1 : 0], cols = tensor.shape[out.transposed ? 0 : 1];
    const std::string base = tensor.name.substr(0, tensor.name.size() - 7);
    if (quantise == "int4" && within_layer(tensor.name) && cols % kInt4Group == 0 && rows % 8 == 0) {
      out.kind = Conversion::Kind::kInt4;
      const int64_t groups = cols / kInt4Group;
      out.to = {{base + ".qweight", "I32", {cols / 8, rows}},
                {base + ".qzeros", "I32", {groups, rows / 8}},
                {base + ".scales", "F16", {groups, rows}},
                {base + ".g_idx", "I32", {cols}}};
    } else {
      out.kind = Conversion::Kind::kInt8;
      out.to = {{base + ".weight", "I8", {rows, cols}}, {base + ".SCB", "F32", {rows}}};
    }
    return out;
  }
  const bool changed = floating && !dtype.empty() && dtype != tensor.stored_dtype;
  out.kind = changed ? Conversion::Kind::kFloat : Conversion::Kind::kCopy;
  out.to = {{tensor.name, changed ? dtype : tensor.stored_dtype, tensor.shape}};
  return out;
}

// The matrix [out, in] as floats.
std::vector<float> read_floats(const Checkpoint& checkpoint, const Conversion& c) {
  const std::vector<char> raw = read_whole(checkpoint, *c.from);
  const int64_t stored_rows = c.from->shape[0], stored_cols = c.from->shape[1], n = stored_rows * stored_cols;
  std::vector<float> values(static_cast<size_t>(n));
  convert_elements(values.data(), DType::kF32, raw.data(), c.from->dtype(), n);
  if (!c.transposed) return values;
  std::vector<float> turned(values.size());
  for (int64_t r = 0; r < stored_rows; ++r) {
    for (int64_t k = 0; k < stored_cols; ++k)
      turned[static_cast<size_t>(k * stored_rows + r)] = values[static_cast<size_t>(r * stored_cols + k)];
  }
  return turned;
}

void write_int8(const Checkpoint& checkpoint, const Conversion& c, SafetensorsWriter& out) {
  const int64_t rows = c.to[0].shape[0], cols = c.to[0].shape[1];
  const std::vector<float> values = read_floats(checkpoint, c);
  std::vector<int8_t> numbers(values.size());
  std::vector<float> largest(static_cast<size_t>(rows));
  QuantisedRow row{std::vector<uint8_t>(static_cast<size_t>(cols)), {0.0f}, {}};
  for (int64_t r = 0; r < rows; ++r) {
    round_row_int8(row, values.data() + r * cols, cols);
    for (int64_t k = 0; k < cols; ++k)
      numbers[static_cast<size_t>(r * cols + k)] = static_cast<int8_t>(row.numbers[static_cast<size_t>(k)] - 128);
    for (int64_t k = 0; k < cols; ++k)
      largest[static_cast<size_t>(r)] =
          std::max(largest[static_cast<size_t>(r)], std::abs(values[static_cast<size_t>(r * cols + k)]));
  }
  out.write(numbers.data(), numbers.size());
  out.write(largest.data(), largest.size() * sizeof(float));
}

void write_int4(const Checkpoint& checkpoint, const Conversion& c, SafetensorsWriter& out) {
  const int64_t rows = c.to[0].shape[1], cols = c.to[0].shape[0] * 8, groups = cols / kInt4Group;
  const std::vector<float> values = read_floats(checkpoint, c);
  std::vector<uint32_t> numbers(static_cast<size_t>(cols / 8 * rows)), zeros(static_cast<size_t>(groups * rows / 8));
  std::vector<uint16_t> scales(static_cast<size_t>(groups * rows));
  std::vector<int32_t> index(static_cast<size_t>(cols));
  QuantisedRow row{std::vector<uint8_t>(static_cast<size_t>(cols)), std::vector<float>(static_cast<size_t>(groups)),
                   std::vector<uint8_t>(static_cast<size_t>(groups))};
  for (int64_t r = 0; r < rows; ++r) {
    round_row_int4(row, values.data() + r * cols, cols);
    for (int64_t k = 0; k < cols; ++k)
      numbers[static_cast<size_t>(k / 8 * rows + r)] |= uint32_t{row.numbers[static_cast<size_t>(k)]} << (4 * (k % 8));
    for (int64_t g = 0; g < groups; ++g) {
      zeros[static_cast<size_t>(g * rows / 8 + r / 8)] |= uint32_t{row.zeros[static_cast<size_t>(g)]} << (4 * (r % 8));
      scales[static_cast<size_t>(g * rows + r)] = f32_to_f16(row.scales[static_cast<size_t>(g)]);
    }
  }
  for (int64_t k = 0; k < cols; ++k) index[static_cast<size_t>(k)] = static_cast<int32_t>(k / kInt4Group);
  out.write(numbers.data(), numbers.size() * 4);
  out.write(zeros.data(), zeros.size() * 4);
  out.write(scales.data(), scales.size() * 2);
  out.write(index.data(), index.size() * 4);
}

void write_tensor(const Checkpoint& checkpoint, const Conversion& c, SafetensorsWriter& out) {
  if (c.kind == Conversion::Kind::kInt8) return write_int8(checkpoint, c, out);
  if (c.kind == Conversion::Kind::kInt4) return write_int4(checkpoint, c, out);
  const std::vector<char> raw = read_whole(checkpoint, *c.from);
  if (c.kind == Conversion::Kind::kCopy) return out.write(raw.data(), raw.size());
  std::vector<char> converted(static_cast<size_t>(c.to[0].bytes()));
  const DType to = parse_dtype(c.to[0].dtype);
  convert_elements(converted.data(), to, raw.data(), c.from->dtype(),
                   static_cast<int64_t>(converted.size() / dtype_bytes(to)));
  out.write(converted.data(), converted.size());
}

// Everything of a folder that is neither weights nor their index. `quantised` are files that say how weights are.
void copy_other_files(const fs::path& from, const fs::path& to, bool quantised) {
  for (const auto& item : fs::directory_iterator(from)) {
    const std::string name = item.path().filename().string(), end = item.path().extension().string();
    const bool small =
        end == ".json" || end == ".txt" || end == ".model" || end == ".jinja" || end == ".py" || end == ".md";
    const bool how = name == "quantize_config.json" || name == "quant_config.json";
    const bool ours = name == "config.json" || name.ends_with(".index.json") || (how && !quantised);
    if (item.is_regular_file() && small && !ours)
      fs::copy_file(item.path(), to / name, fs::copy_options::overwrite_existing);
  }
}

// Tokenizer, templates, and at last the config: a folder without it is not a checkpoint.
void complete(const ModelSource& source, const fs::path& out, const Json& config, bool quantised) {
  if (fs::is_directory(source.folder)) copy_other_files(source.folder, out, quantised);
  if (source.folder.extension() == ".nemo") {
    for (const auto& [name, content] : nemo_tokenizer_files(source.folder)) replace_file(out / name, content);
  }
  replace_file(out / "config.json", config.dump(2) + "\n");
}

int run_packed(const ConvertOptions& options, const ModelSource& source, Json& config) {
  const double started = monotonic_seconds();
  const PackOptions pack{std::max(1, options.tp), std::max(1, options.pp), options.threads, options.device == "cuda",
                         options.model};
  const uint64_t bytes = convert_packed(source, options.out, pack);
  config["torch_dtype"] = read_model_info(source).dtype;
  config.erase("dtype");
  complete(source, options.out, config, true);
  log_info(fmt::format("{}: packed for {} at tp {}, pp {}, {:.2f} GB in {:.1f} s", options.out,
                       pack.gpus ? "GPUs" : "CPUs", pack.tp, pack.pp, static_cast<double>(bytes) * 1e-9,
                       monotonic_seconds() - started));
  return 0;
}

int run(ConvertOptions& options) {
  Settings& settings = options.settings;
  set_model(settings, options.model);
  ModelSource source = model_source(settings);
  source.experts = options.experts;
  const fs::path out = options.out;
  if (source.folder.empty() || null_rate(source.folder)) throw Error("convert needs a checkpoint; give MODEL");
  if (fs::exists(out) && (!fs::is_directory(out) || !fs::is_empty(out)))
    throw Error(fmt::format("{} exists already and is not an empty folder; name another", out.string()));
  if (options.experts != "auto" && !options.packed())
    throw Error("--experts is about ranks; give --tp and --pp with it");
  if (!options.device.empty() && !options.packed())
    throw Error("--device is about packed weights; give --tp and --pp with it");
  if (const auto layout = read_packed_layout(source.folder))
    throw Error(fmt::format("{} is packed already ({}); convert what it was made of: {}", source.folder.string(),
                            layout->describe(), layout->source));

  const bool foreign = is_foreign(source.folder);
  Json config =
      Json::parse(foreign ? foreign_config(source.folder) : read_file(source.folder / "config.json"), nullptr, false);
  if (!config.is_object()) throw Error(fmt::format("{}: config.json is not a JSON object", source.folder.string()));
  if (options.packed()) return run_packed(options, source, config);
  // Products are known by their family; another conversion takes every tensor as it comes.
  const Family* family =
      source.quantize.empty() ? nullptr : &family_of(Config::parse(config.dump(), source.folder.string()));
  const FileNames names = family != nullptr ? family->files : FileNames{};
  const Checkpoint checkpoint = Checkpoint::open(source.folder, family != nullptr ? family->base_prefix : "");
  const bool quantised =
      std::any_of(checkpoint.tensors().begin(), checkpoint.tensors().end(), [](const CheckpointTensor& t) {
        return t.name.ends_with(".qweight") || t.name.ends_with(".SCB") || t.name.ends_with("_blocks");
      });
  if (quantised && (!source.quantize.empty() || source.dtype != "auto"))
    throw Error(
        fmt::format("{} is quantised already; convert it without --quantize and --dtype", source.folder.string()));
  if (source.quantize == "gptq" || source.quantize == "awq")
    throw Error(fmt::format("--quantize is {}, which is made with calibration data elsewhere; expected int8 or int4",
                            source.quantize));

  std::string dtype;
  if (source.dtype != "auto") {
    const DType wanted = parse_dtype(source.dtype);
    if (wanted != DType::kF32 && wanted != DType::kBF16 && wanted != DType::kF16)
      throw Error(fmt::format("--dtype is {}, expected float32, bfloat16 or float16", source.dtype));
    dtype = safetensors_name(wanted);
    config["torch_dtype"] = dtype_name(wanted);
    config.erase("dtype");
  }
  if (!source.quantize.empty()) {
    const bool wide = source.quantize == "int8";
    config["quantization_config"] =
        wide ? Json{{"quant_method", "bitsandbytes"}, {"load_in_8bit", true}, {"llm_int8_skip_modules", Json::array()}}
             : Json{{"quant_method", "gptq"}, {"bits", 4},    {"group_size", kInt4Group},
                    {"desc_act", false},      {"sym", false}, {"checkpoint_format", "gptq_v2"}};
  }

  const auto stacked = std::find_if(
      checkpoint.tensors().begin(), checkpoint.tensors().end(),
      [](const CheckpointTensor& t) { return t.shape.size() > 2 && t.name.find(".experts.") != std::string::npos; });
  if (!source.quantize.empty() && stacked != checkpoint.tensors().end())
    throw Error(
        fmt::format("{} stacks experts ({} has {} dimensions), which no quantised layout holds; quantise while "
                    "loading (--quantize {}), or pack it: --tp N --quantize {}",
                    source.folder.string(), stacked->name, stacked->shape.size(), source.quantize, source.quantize));
  std::vector<Conversion> conversions;
  std::vector<WrittenTensor> written;
  uint64_t bytes = 0;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    conversions.push_back(plan(tensor, source.quantize, dtype, names));
    for (const WrittenTensor& t : conversions.back().to) {
      written.push_back(t);
      bytes += t.bytes();
    }
  }
  // A head that is the embedding is written beside it, because the embedding stays as it is.
  for (const std::string& name : names.embed) {
    const CheckpointTensor* table = checkpoint.find(name);
    if (table == nullptr || names.tie.empty()) continue;
    untie(config, names.tie);
    if (checkpoint.find(names.head) != nullptr) break;
    const std::string head = names.head.substr(0, names.head.size() - 7);
    conversions.push_back({table,
                           Conversion::Kind::kInt8,
                           false,
                           {{head + ".weight", "I8", table->shape}, {head + ".SCB", "F32", {table->shape[0]}}}});
    for (const WrittenTensor& t : conversions.back().to) {
      written.push_back(t);
      bytes += t.bytes();
    }
    break;
  }
  fs::create_directories(out);
  const double started = monotonic_seconds();
  SafetensorsWriter writer(out, std::move(written), static_cast<uint64_t>(options.shard_gb * 1e9));
  for (const Conversion& c : conversions) write_tensor(checkpoint, c, writer);
  writer.finish();
  complete(source, out, config, false);
  log_info(fmt::format("{}: {} tensors, {:.2f} GB in {:.1f} s", out.string(), conversions.size(),
                       static_cast<double>(bytes) * 1e-9, monotonic_seconds() - started));
  return 0;
}

}  // namespace

void add_convert(CLI::App& app, int& exit_code) {
  const auto [verb, options] = add_verb<ConvertOptions>(
      app, "convert", "Write a checkpoint as safetensors, in another dtype, quantised, or packed for ranks.", exit_code,
      run);
  verb->add_option("MODEL", options->model, "Checkpoint: a folder, a .nemo file or a FasterTransformer folder.")
      ->required();
  verb->add_option("OUT", options->out, "Folder to write, new or empty.")->required();
  verb->add_option("--shard-gb", options->shard_gb, "Largest file, in GB.")
      ->check(CLI::Range(0.001, 1000.0))
      ->capture_default_str();
  verb->add_option("--tp", options->tp, "Pack for this number of tensor-parallel ranks: each loads its own file.")
      ->check(CLI::Range(1, 4096));
  verb->add_option("--pp", options->pp, "Pack for this number of pipeline stages.")->check(CLI::Range(1, 4096));
  verb->add_option("--experts", options->experts, "Packed experts: split, spread or auto, as in serve.")
      ->check(CLI::IsMember({"auto", "split", "spread"}))
      ->capture_default_str();
  verb->add_option("--device", options->device, "Packed weights: for ranks on cpu (the default) or cuda; needs no GPU.")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  verb->add_option("--threads", options->threads, "Threads that pack; 0: all CPUs.")->check(CLI::Range(0, 4096));
  add_flags(*verb, options->settings, {"model", "random-init", "tokenizer", "chat-template"});
}

}  // namespace sluice
