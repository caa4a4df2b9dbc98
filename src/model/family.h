// SPDX-License-Identifier: Apache-2.0
// The registry of model families. A family is one file of families/, which registers itself.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/model.h"
#include "weights/checkpoint.h"
#include "weights/load.h"
#include "weights/spec.h"
#include "weights/staging.h"

namespace sluice {

struct LoadContext {
  const Config& config;
  const Checkpoint* checkpoint;  // null: random or packed weights
  Backend& backend;
  Groups& groups;  // outlives the model
  StoredAs dtype;  // of stored weights
  StagingOptions staging;
  ModelInfo info;                // as described; load() completes this rank's bytes
  std::string experts = "auto";  // as in ModelSource
  PackedFiles packed{};          // `from` in place of a checkpoint
  // Whether the files have a tensor whose name begins so, as they write it.
  bool names_begin(const std::string& prefix) const;
};

// The tensors that serve as token embedding and as head. As transformers 5: where a file that claims to be tied holds
// two different ones, both count (a warning says so); where it lacks one, the other serves both.
struct TiedNames {
  std::string embed, head;
  bool tied = false;
};
TiedNames resolve_tie(const LoadContext& context, const std::string& embed, const std::string& head, bool claimed);

// Warns of tensors that the table does not ask for, except names that end in one of `ignored`.
void warn_unused(const LoadContext& context, const std::vector<TensorSpec>& table,
                 const std::vector<std::string>& ignored);

// Fills parameters and linear_parameters from the table.
void count_parameters(const std::vector<TensorSpec>& table, ModelInfo& info);

// What a checkpoint's own names say to `convert`, which sees the files and no table. Names are whole.
struct FileNames {
  std::vector<std::string> embed;  // the token embedding, by each name that it has in one file or another
  std::string head;
  // The key of config.json that ties them; empty: more than the matrix hangs on it, a tied head stays as it is.
  std::string tie = "tie_word_embeddings";
  std::vector<std::string> kept{};  // ends of names of layers' matrices that are no products: routers, tables
  bool transposed = false;          // products of layers are [in, out]
};

struct Family {
  std::string name;                        // "llama"
  std::vector<std::string> architectures;  // of config.json
  std::string base_prefix;                 // of tensor names, absent in files of the bare base model
  FileNames files;
  // Fills the sizes of the whole model. Throws Error naming what is unsupported.
  void (*describe)(const Config& config, ModelInfo& info);
  std::unique_ptr<Model> (*load)(LoadContext& context);
};

// A file-scope object of a family's file. A name or architecture that is already registered is our bug and aborts.
struct RegisterFamily {
  explicit RegisterFamily(Family family);
};

// By architectures[0]. Throws Error listing what is known.
const Family& family_of(const Config& config);

// config.json text of a named shape. Throws Error listing what is known.
const char* random_shape_config(const std::string& name);

}  // namespace sluice
