// SPDX-License-Identifier: Apache-2.0
// From a folder or a named shape to a model: config, generation config, dtype, family.
#include <fmt/format.h>

#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "model/family.h"
#include "weights/foreign.h"
#include "weights/packed.h"
#include "weights/quantised.h"

namespace sluice {
namespace {
Config open_config(const ModelSource& source) {
  if (!source.random_shape.empty()) {
    if (!source.folder.empty()) throw Error("--model and --random-init were both given, expected one of them");
    return Config::parse(random_shape_config(source.random_shape), "shape " + source.random_shape);
  }
  if (is_foreign(source.folder)) return Config::parse(foreign_config(source.folder), source.folder.string());
  const auto file = source.folder / "config.json";
  if (!std::filesystem::exists(file)) {
    throw Error(fmt::format("{} has no config.json, expected the folder of a checkpoint in Hugging Face layout",
                            source.folder.string()));
  }
  return Config::read(file);
}

// generation_config.json overlays config.json: the stop set of a chat model is in the former.
void read_special_tokens(const ModelSource& source, const Config& config, ModelInfo& info) {
  std::vector<int64_t> eos = config.integers("eos_token_id"), bos = config.integers("bos_token_id");
  const auto file = source.folder / "generation_config.json";
  if (!source.folder.empty() && std::filesystem::exists(file)) {
    const Config generation = Config::read(file);
    if (generation.has("eos_token_id")) eos = generation.integers("eos_token_id");
    if (generation.has("bos_token_id")) bos = generation.integers("bos_token_id");
  }
  for (const int64_t id : eos) {
    if (id < 0) throw Error(fmt::format("{}: eos_token_id holds {}, expected token ids", config.origin(), id));
    info.eos.push_back(static_cast<int32_t>(id));
  }
  if (!bos.empty()) info.bos = static_cast<int32_t>(bos.front());
}

// "auto" is the config's, else that of the first floating tensor.
DType choose_dtype(const ModelSource& source, const Config& config, const Checkpoint* checkpoint) {
  std::string name = source.dtype;
  std::string origin = "--dtype";
  if (name == "auto") {
    name = config_dtype(config);
    origin = config.origin() + ": torch_dtype";
  }
  if (name.empty() && checkpoint != nullptr) {
    origin = checkpoint->folder().string();
    for (const CheckpointTensor& tensor : checkpoint->tensors()) {
      if (tensor.stored_dtype == "F32" || tensor.stored_dtype == "BF16" || tensor.stored_dtype == "F16") {
        name = tensor.stored_dtype;
        break;
      }
    }
  }
  if (name.empty())
    throw Error(fmt::format("{} names no dtype; give --dtype float32, bfloat16 or float16", config.origin()));
  try {
    const DType dtype = parse_dtype(name);
    if (dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16) return dtype;
  } catch (const Error&) {  // the words below say more
  }
  throw Error(fmt::format("{} is {}, expected float32, bfloat16 or float16", origin, name));
}

// What the checkpoint's files hold already; older GPTQ and AWQ checkpoints say so in a file of their own.
std::optional<QuantFormat> find_quantisation(const ModelSource& source, const Config& config) {
  if (config.has("quantization_config")) return read_quantisation(config);
  for (const auto& [name, method] : {std::pair{"quantize_config.json", "gptq"}, {"quant_config.json", "awq"}}) {
    if (!source.folder.empty() && std::filesystem::exists(source.folder / name))
      return read_quantisation_section(Config::read(source.folder / name), method);
  }
  return std::nullopt;
}

// --quantize: a scheme for loading, or the method of a checkpoint that is quantised already.
Quantise choose_quantise(const ModelSource& source, const std::optional<QuantFormat>& found) {
  const std::string& wanted = source.quantize;
  if (found) {
    const bool same = wanted == found->name || (wanted == "int8" && found->name == "bitsandbytes");
    if (!wanted.empty() && !same) {
      throw Error(
          fmt::format("--quantize is {}, but the checkpoint in {} is quantised already ({}); leave --quantize out",
                      wanted, source.folder.string(), found->name));
    }
    return Quantise::kNone;
  }
  if (wanted.empty()) return Quantise::kNone;
  if (wanted == "int8") return Quantise::kInt8;
  if (wanted == "int4") return Quantise::kInt4;
  throw Error(fmt::format("--quantize is {}, but the checkpoint is not quantised by {}; expected int8 or int4", wanted,
                          wanted));
}

ModelInfo describe(const ModelSource& source, const Config& config, const Family& family, DType dtype) {
  ModelInfo info;
  info.family = family.name;
  info.name = source.random_shape;
  if (info.name.empty()) {
    const auto folder = std::filesystem::absolute(source.folder).lexically_normal();
    info.name = (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  }
  info.dtype = dtype_name(dtype);
  const auto found = find_quantisation(source, config);
  if (const Quantise made = choose_quantise(source, found); made != Quantise::kNone)
    info.quantised = quantise_name(made);
  if (found) {
    const bool fp8 = found->kind == QuantFormat::Kind::kFp8;
    info.quantised = fmt::format("{} ({})", fp8 ? "fp8" : found->bits > 4 ? "int8" : "int4", found->name);
  }
  read_special_tokens(source, config, info);
  family.describe(config, info);
  return info;
}

// What packed weights are of is what their folder says; a setting that asks for something else is refused.
ModelSource settle(const ModelSource& source, const std::optional<PackedLayout>& layout) {
  if (!layout) return source;
  layout->require_stored(source.dtype, source.quantize, source.experts);
  ModelSource out = source;
  out.dtype = layout->dtype;
  out.quantize = layout->quantize;
  out.experts = layout->experts;
  return out;
}

std::unique_ptr<Model> load(const ModelSource& given, Backend& backend, Groups& groups, PackedWriter* to) {
  const std::optional<PackedLayout> layout = read_packed_layout(given.folder);
  if (layout && to != nullptr)
    throw Error(fmt::format("{} is packed already ({}); pack what it was made of: {}", given.folder.string(),
                            layout->describe(), layout->source));
  const ModelSource source = settle(given, layout);
  const Config config = open_config(source);
  const Family& family = family_of(config);
  std::optional<Checkpoint> checkpoint;
  std::optional<PackedReader> packed;
  if (layout) {
    layout->require_packing(backend);
    layout->require_ranks(groups.tp_size(), groups.stages());
    packed.emplace(*layout, groups.stage() * groups.tp_size() + groups.tp_rank());
  } else if (!source.folder.empty()) {
    checkpoint = Checkpoint::open(source.folder, family.base_prefix);
  }
  const Checkpoint* file = checkpoint ? &*checkpoint : nullptr;
  const auto found = find_quantisation(source, config);
  if (found && checkpoint) checkpoint->join(*found);
  const StoredAs dtype(choose_dtype(source, config, file), choose_quantise(source, found));
  LoadContext context{config, file, backend, groups, dtype, {}, describe(source, config, family, dtype)};
  if (found && found->kind == QuantFormat::Kind::kFp8 && !backend.packs(Scheme::kFp8)) context.info.quantised.clear();
  context.staging.threads = static_cast<int>(source.load_threads);
  context.staging.quiet = source.quiet;
  if (source.experts != "auto" && source.experts != "split" && source.experts != "spread")
    throw Error(fmt::format("--experts is {}, expected auto, split or spread", source.experts));
  context.experts = source.experts;
  context.packed = {packed ? &*packed : nullptr, to};
  return family.load(context);
}
}  // namespace

ModelInfo read_model_info(const ModelSource& given) {
  const ModelSource source = settle(given, read_packed_layout(given.folder));
  const Config config = open_config(source);
  const Family& family = family_of(config);
  std::optional<Checkpoint> checkpoint;
  if (source.dtype == "auto" && config_dtype(config).empty() && !source.folder.empty())
    checkpoint = Checkpoint::open(source.folder, family.base_prefix);
  const DType dtype = choose_dtype(source, config, checkpoint ? &*checkpoint : nullptr);
  return describe(source, config, family, dtype);
}

std::unique_ptr<Model> load_model(const ModelSource& source, Backend& backend, Groups& groups) {
  return load(source, backend, groups, nullptr);
}

void pack_model(const ModelSource& source, Backend& backend, Groups& groups, PackedWriter& file) {
  if (backend.packing().empty())
    throw Error(fmt::format("the {} backend keeps no packed weights in files; expected cpu", backend.name()));
  load(source, backend, groups, &file);
}

}  // namespace sluice
