// SPDX-License-Identifier: Apache-2.0
#include "api/dialects/triton_models.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "api/json.h"
#include "base/error.h"

namespace sluice::triton {
namespace {

constexpr TensorSpec kBackendInputs[] = {{"text_input", "BYTES"},
                                         {"max_tokens", "INT32"},
                                         {"decoder_text_input", "BYTES", 1, true},
                                         {"bad_words", "BYTES", -1, true},
                                         {"stop_words", "BYTES", -1, true},
                                         {"exclude_input_in_output", "BOOL", 1, true},
                                         {"guided_decoding_guide_type", "BYTES", 1, true},
                                         {"guided_decoding_guide", "BYTES", 1, true},
                                         {"end_id", "INT32", 1, true},
                                         {"pad_id", "INT32", 1, true},
                                         {"top_k", "INT32", 1, true},
                                         {"top_p", "FP32", 1, true},
                                         {"temperature", "FP32", 1, true},
                                         {"length_penalty", "FP32", 1, true},
                                         {"repetition_penalty", "FP32", 1, true},
                                         {"min_length", "INT32", 1, true},
                                         {"min_tokens", "INT32", 1, true},
                                         {"presence_penalty", "FP32", 1, true},
                                         {"frequency_penalty", "FP32", 1, true},
                                         {"random_seed", "UINT64", 1, true},
                                         {"seed", "UINT64", 1, true},
                                         {"return_log_probs", "BOOL", 1, true},
                                         {"return_context_logits", "BOOL", 1, true},
                                         {"return_generation_logits", "BOOL", 1, true},
                                         {"num_return_sequences", "INT32", 1, true},
                                         {"beam_width", "INT32", 1, true},
                                         {"stream", "BOOL", 1, true},
                                         {"prompt_embedding_table", "FP16", -1, true},
                                         {"prompt_vocab_size", "INT32", 1, true},
                                         {"embedding_bias_words", "BYTES", -1, true},
                                         {"embedding_bias_weights", "FP32", -1, true}};
constexpr TensorSpec kBackendOutputs[] = {{"text_output", "BYTES", -1},
                                          {"cum_log_probs", "FP32", -1},
                                          {"output_log_probs", "FP32", -1},
                                          {"context_logits", "FP32", -1},
                                          {"generation_logits", "FP32", -1}};
constexpr TensorSpec kExampleInputs[] = {
    {"prompts", "BYTES"}, {"request_output_len", "UINT32"}, {"beam_width", "UINT32", 1, true}};
constexpr TensorSpec kExampleOutputs[] = {
    {"sentences", "BYTES", -1}, {"sequence_length", "INT64", -1}, {"cum_log_probs", "FP32", -1}};

std::string dims(const ModelView& model, const TensorSpec& tensor) {
  return model.example && tensor.name == "sentences" ? "-1,1" : std::to_string(tensor.dim);
}

std::string_view type_of(std::string_view datatype) { return datatype == "BYTES" ? "STRING" : datatype; }

std::string_view backend_of(const ModelView& model) { return model.example ? "python" : "ensemble"; }

void append_tensors(std::string& out, const ModelView& model, std::span<const TensorSpec> tensors) {
  for (const TensorSpec& t : tensors)
    out += fmt::format("{}{{\"name\":\"{}\",\"datatype\":\"{}\",\"shape\":[-1,{}]}}", &t == tensors.data() ? "" : ",",
                       t.name, t.datatype, dims(model, t));
}

}  // namespace

std::string example_name(const std::string& id) {
  std::string out = id;
  for (char& c : out)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return out;
}

std::vector<ModelView> models(const Service& service) {
  std::vector<ModelView> out;
  for (const char* name : {"ensemble", "tensorrt_llm_bls"})
    out.push_back({name, false, kBackendInputs, kBackendOutputs});
  std::vector<std::string> names{service.model.id};
  names.insert(names.end(), service.model.aliases.begin(), service.model.aliases.end());
  for (const std::string& name : names) {
    ModelView view{example_name(name), true, kExampleInputs, kExampleOutputs};
    const bool known = std::any_of(out.begin(), out.end(), [&](const ModelView& m) { return m.name == view.name; });
    if (!known && (&name == names.data() || name.find('/') == std::string::npos)) out.push_back(std::move(view));
  }
  return out;
}

ModelView find_model(const Service& service, const std::string& name, const std::string& version) {
  if (version.empty() || version == "1") {
    for (ModelView& model : models(service))
      if (model.name == name) return model;
    if (name == service.model.id) return {name, true, kExampleInputs, kExampleOutputs};
  }
  throw RequestError(
      RequestError::Kind::kUnknownModel,
      fmt::format("Request for unknown model: '{}'{} is not found", name, version.empty() ? "" : " version " + version),
      "model");
}

std::string server_metadata() {
  return "{\"name\":\"triton\",\"version\":\"2.47.0\",\"extensions\":[\"model_repository\",\"model_configuration\","
         "\"binary_tensor_data\",\"parameters\",\"statistics\"]}";
}

std::string metadata(const ModelView& model) {
  std::string out = "{\"name\":";
  append_json_string(out, model.name);
  out += fmt::format(",\"versions\":[\"1\"],\"platform\":\"{}\",\"inputs\":[", backend_of(model));
  append_tensors(out, model, model.inputs);
  out += "],\"outputs\":[";
  append_tensors(out, model, model.outputs);
  out += "]}";
  return out;
}

std::string config(const ModelView& model) {
  std::string out = "{\"name\":";
  append_json_string(out, model.name);
  out += fmt::format(
      ",\"platform\":\"{}\",\"backend\":\"{}\",\"version_policy\":{{\"latest\":{{\"num_versions\":1}}}},"
      "\"max_batch_size\":{},\"input\":[",
      model.example ? "" : "ensemble", model.example ? "python" : "", kMaxBatch);
  for (const TensorSpec& t : model.inputs)
    out += fmt::format(
        "{}{{\"name\":\"{}\",\"data_type\":\"TYPE_{}\",\"format\":\"FORMAT_NONE\",\"dims\":[{}],"
        "\"is_shape_tensor\":false,\"allow_ragged_batch\":false,\"optional\":{}}}",
        &t == model.inputs.data() ? "" : ",", t.name, type_of(t.datatype), dims(model, t), t.optional);
  out += "],\"output\":[";
  for (const TensorSpec& t : model.outputs)
    out += fmt::format(
        "{}{{\"name\":\"{}\",\"data_type\":\"TYPE_{}\",\"dims\":[{}],\"label_filename\":\"\",\"is_shape_tensor\":false}"
        "}",
        &t == model.outputs.data() ? "" : ",", t.name, type_of(t.datatype), dims(model, t));
  out +=
      "],\"batch_input\":[],\"batch_output\":[],\"optimization\":{\"priority\":\"PRIORITY_DEFAULT\"},"
      "\"dynamic_batching\":{},\"instance_group\":[],\"default_model_filename\":\"\",\"cc_model_filenames\":{},"
      "\"metric_tags\":{},\"parameters\":{},\"model_warmup\":[],"
      "\"model_transaction_policy\":{\"decoupled\":false}}";
  return out;
}

std::string index(const std::vector<ModelView>& models) {
  std::string out = "[";
  for (const ModelView& model : models) {
    if (out.size() > 1) out += ',';
    out += "{\"name\":";
    append_json_string(out, model.name);
    out += ",\"version\":\"1\",\"state\":\"READY\"}";
  }
  out += ']';
  return out;
}

}  // namespace sluice::triton
