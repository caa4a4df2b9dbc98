// SPDX-License-Identifier: Apache-2.0
#include "api/dialects/triton_tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "api/fields.h"
#include "base/error.h"

namespace sluice::triton {
namespace {

using Kind = JsonView::Kind;
constexpr int64_t kMaxElements = 1 << 20;

[[noreturn]] void malformed(const std::string& text) { throw RequestError(RequestError::Kind::kMalformed, text); }

// Bytes of one element; 0 for BYTES and for what is not known here.
size_t element_size(std::string_view datatype) {
  if (datatype == "BOOL" || datatype == "INT8" || datatype == "UINT8") return 1;
  if (datatype == "INT16" || datatype == "UINT16") return 2;
  if (datatype == "INT32" || datatype == "UINT32" || datatype == "FP32") return 4;
  if (datatype == "INT64" || datatype == "UINT64" || datatype == "FP64") return 8;
  return 0;
}

template <class T>
T load(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <class T>
void store(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

Scalar load_scalar(std::string_view datatype, const char* at) {
  Scalar s;
  if (datatype == "FP32") s.number = static_cast<double>(load<float>(at));
  if (datatype == "FP64") s.number = load<double>(at);
  if (datatype == "BOOL" || datatype == "UINT8") s.integer = load<uint8_t>(at);
  if (datatype == "INT8") s.integer = static_cast<int64_t>(load<int8_t>(at));
  if (datatype == "INT16") s.integer = load<int16_t>(at);
  if (datatype == "UINT16") s.integer = load<uint16_t>(at);
  if (datatype == "INT32") s.integer = load<int32_t>(at);
  if (datatype == "UINT32") s.integer = load<uint32_t>(at);
  if (datatype == "INT64") s.integer = load<int64_t>(at);
  if (datatype == "UINT64") s.integer = static_cast<int64_t>(load<uint64_t>(at));
  return s;
}

void read_binary(Tensor& tensor, std::string_view bytes, int64_t elements) {
  if (tensor.datatype == "BYTES") {
    size_t at = 0;
    while (static_cast<int64_t>(tensor.values.size()) < elements) {
      if (bytes.size() - at < 4) malformed(fmt::format("input '{}' ends within an element's length", tensor.name));
      const auto size = load<uint32_t>(bytes.data() + at);
      at += 4;
      if (bytes.size() - at < size) malformed(fmt::format("input '{}' ends within an element", tensor.name));
      tensor.values.push_back({std::string(bytes.substr(at, size)), 0, 0});
      at += size;
    }
    if (at != bytes.size())
      malformed(fmt::format("input '{}' has {} bytes more than its shape needs", tensor.name, bytes.size() - at));
    return;
  }
  const size_t size = element_size(tensor.datatype);
  if (size == 0) malformed(fmt::format("input '{}': datatype {} is not known here", tensor.name, tensor.datatype));
  if (bytes.size() != size * static_cast<size_t>(elements))
    malformed(fmt::format("input '{}' has {} bytes where its shape and datatype need {}", tensor.name, bytes.size(),
                          size * static_cast<size_t>(elements)));
  for (int64_t i = 0; i < elements; ++i)
    tensor.values.push_back(load_scalar(tensor.datatype, bytes.data() + static_cast<size_t>(i) * size));
}

// Nested lists count as their elements in order.
void read_json(Tensor& tensor, const JsonView& data) {
  if (data.kind() != Kind::kArray) {
    tensor.values.push_back(read_scalar(tensor.name, tensor.datatype, data));
    return;
  }
  for (size_t i = 0; i < data.size(); ++i) read_json(tensor, data.at(i));
}

int64_t count(const Tensor& tensor) {
  int64_t elements = 1;
  for (const int64_t dim : tensor.shape) {
    if (dim < 0 || (dim > 0 && elements > kMaxElements / dim))
      malformed(
          fmt::format("input '{}': its shape is negative or has more than {} elements", tensor.name, kMaxElements));
    elements *= dim;
  }
  return elements;
}

size_t json_size(const HttpRequest& request) {
  const std::string_view text = request.headers.get("inference-header-content-length");
  if (text.empty()) return request.body.size();
  size_t size = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), size);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || size > request.body.size())
    malformed(fmt::format("Inference-Header-Content-Length: expected a size up to {}, found '{}'", request.body.size(),
                          text));
  if (size == 0) malformed("raw binary requests are not supported: send the JSON part with names and shapes");
  return size;
}

void append_value(std::string& out, const Tensor& tensor, const Scalar& value) {
  if (tensor.datatype == "BYTES")
    append_json_string(out, value.text);
  else if (tensor.datatype == "FP32")
    append_json_number(out, static_cast<float>(value.number));
  else
    append_integer(out, value.integer);
}

void append_binary(std::string& out, const Tensor& tensor) {
  for (const Scalar& value : tensor.values) {
    if (tensor.datatype == "BYTES") {
      store(out, static_cast<uint32_t>(value.text.size()));
      out += value.text;
    } else if (tensor.datatype == "FP32") {
      store(out, static_cast<float>(value.number));
    } else {
      store(out, value.integer);  // INT64
    }
  }
}

}  // namespace

bool is_integral(std::string_view datatype) { return datatype != "BYTES" && datatype != "FP32" && datatype != "FP64"; }

Scalar read_scalar(const std::string& name, std::string_view datatype, const JsonView& value) {
  Scalar out;
  if (datatype == "BYTES") {
    if (value.kind() != Kind::kString) wrong_type(name, value, "a string");
    out.text = value.string_view();
  } else if (datatype == "BOOL") {
    if (!value.boolean()) wrong_type(name, value, "a boolean");
    out.integer = *value.boolean() ? 1 : 0;
  } else if (is_integral(datatype)) {
    const auto large = value.unsigned_integer();
    const auto number = value.integer();
    if (!large && !number) wrong_type(name, value, "an integer");
    out.integer = number ? *number : static_cast<int64_t>(*large);
    if (datatype.starts_with("U") && !large) wrong_type(name, value, "an integer of 0 or more");
  } else {
    if (!value.number()) wrong_type(name, value, "a number");
    out.number = *value.number();
  }
  return out;
}

InferRequest read_infer(const HttpRequest& request) {
  const size_t size = json_size(request);
  const JsonBody json = read_object(std::string_view(request.body).substr(0, size));
  const JsonView body = json.root();
  std::string_view blobs = std::string_view(request.body).substr(size);
  InferRequest out;
  out.id = Fields{body}.string("id").value_or("");
  JsonView inputs = body["inputs"];
  if (inputs.kind() != Kind::kArray || inputs.size() > 64) wrong_type("inputs", inputs, "a list of at most 64 tensors");
  for (size_t i = 0; i < inputs.size(); ++i) {
    JsonView input = inputs.at(i);
    if (input.kind() != Kind::kObject) wrong_type("inputs", input, "a tensor with name, shape and datatype");
    const Fields fields{input};
    Tensor tensor;
    tensor.name = fields.string("name").value_or("");
    tensor.datatype = fields.string("datatype").value_or("");
    JsonView shape = input["shape"];
    if (shape.kind() != Kind::kArray) wrong_type("shape", shape, "a list of integers");
    for (size_t k = 0; k < shape.size(); ++k) {
      if (!shape.at(k).integer()) wrong_type("shape", shape.at(k), "an integer");
      tensor.shape.push_back(*shape.at(k).integer());
    }
    const int64_t elements = count(tensor);
    if (const auto bytes = Fields{input["parameters"]}.integer("binary_data_size")) {
      if (*bytes < 0 || static_cast<uint64_t>(*bytes) > blobs.size())
        malformed(fmt::format("input '{}': {} bytes were announced and {} came", tensor.name, *bytes, blobs.size()));
      read_binary(tensor, blobs.substr(0, static_cast<size_t>(*bytes)), elements);
      blobs.remove_prefix(static_cast<size_t>(*bytes));
    } else {
      if (input["data"].kind() != Kind::kArray) wrong_type("data", input["data"], "a list");
      read_json(tensor, input["data"]);
    }
    if (static_cast<int64_t>(tensor.values.size()) != elements)
      malformed(fmt::format("input '{}' has {} elements where its shape needs {}", tensor.name, tensor.values.size(),
                            elements));
    out.inputs.push_back(std::move(tensor));
  }
  if (!blobs.empty()) malformed(fmt::format("{} bytes follow the last tensor", blobs.size()));
  out.binary_by_default = Fields{body["parameters"]}.boolean("binary_data_output", false);
  JsonView outputs = body["outputs"];
  if (!outputs.unset() && outputs.kind() != Kind::kArray) wrong_type("outputs", outputs, "a list");
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Fields fields{outputs.at(i)};
    JsonView parameters = outputs.at(i)["parameters"];
    if (asks(parameters["classification"], ""))
      invalid_field("classification", "classification is not supported: no output of this model has classes");
    out.outputs.push_back(
        {fields.string("name").value_or(""), Fields{parameters}.boolean("binary_data", out.binary_by_default)});
  }
  return out;
}

void write_infer(Reply& reply, const InferRequest& request, std::string_view model,
                 const std::vector<Tensor>& outputs) {
  std::string json = "{", blobs;
  bool binary = false;
  if (!request.id.empty()) {
    json += "\"id\":";
    append_json_string(json, request.id);
    json += ',';
  }
  json += "\"model_name\":";
  append_json_string(json, model);
  json += ",\"model_version\":\"1\",\"outputs\":[";
  const auto append = [&](const Tensor& tensor, bool as_binary) {
    if (json.back() != '[') json += ',';
    json += "{\"name\":";
    append_json_string(json, tensor.name);
    json += ",\"datatype\":\"" + tensor.datatype + "\",\"shape\":[";
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      if (i > 0) json += ',';
      append_integer(json, tensor.shape[i]);
    }
    json += ']';
    if (as_binary) {
      const size_t before = blobs.size();
      append_binary(blobs, tensor);
      binary = true;
      json += ",\"parameters\":{\"binary_data_size\":";
      append_integer(json, static_cast<int64_t>(blobs.size() - before));
      json += "}}";
      return;
    }
    json += ",\"data\":[";
    for (size_t i = 0; i < tensor.values.size(); ++i) {
      if (i > 0) json += ',';
      append_value(json, tensor, tensor.values[i]);
    }
    json += "]}";
  };
  if (request.outputs.empty())
    for (const Tensor& tensor : outputs) append(tensor, request.binary_by_default);
  for (const WantedOutput& wanted : request.outputs) {
    const auto found =
        std::find_if(outputs.begin(), outputs.end(), [&](const Tensor& t) { return t.name == wanted.name; });
    if (found == outputs.end())
      invalid_field("outputs", fmt::format("unexpected inference output '{}' for model '{}'", wanted.name, model));
    append(*found, wanted.binary);
  }
  json += "]}";
  if (!binary) return reply.json(200, std::move(json));
  reply.headers.add("inference-header-content-length", std::to_string(json.size()));
  reply.content(200, "application/octet-stream", json + blobs);
}

}  // namespace sluice::triton
