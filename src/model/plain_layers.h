// SPDX-License-Identifier: Apache-2.0
// Layers of two norms, attention, and an MLP of two products with one activation: what GPT-2, BLOOM, GPT-NeoX and
// StarCoder2 are made of. A family says how its tensors are called and how the blocks follow each other.
#pragma once

#include <string>
#include <vector>

#include "model/decoder.h"

namespace sluice {

struct PlainLayer {
  Norm attention_norm, mlp_norm;
  ColumnLinear qkv;  // rows: q heads, k heads, v heads of this rank
  RowLinear o;
  ColumnLinear up;
  RowLinear down;
};

// Without prefix, ".weight" and ".bias".
struct PlainNames {
  const char *attention_norm, *q, *k, *v, *o, *mlp_norm, *up, *down;
  const char* final_norm;                      // whole
  std::string (*layer)(int64_t global_layer);  // prefix
};

class PlainDecoder : public DecoderModel {
 protected:
  PlainDecoder(LoadContext& context, const DecoderSizes& sizes)
      : DecoderModel(context, sizes), layers_(static_cast<size_t>(range_.count)) {}

  // Layers of this stage and, on the last, the final norm; then everything is read.
  void load_layers(ModuleLoader& load, const PlainNames& names, float eps);

  // a.out = o(attention(norm(x))), a partial sum.
  void attention(const PlainLayer& layer, size_t i, Activations& a, const BatchView& batch, const AttentionShape& shape,
                 const RopeView& rope = {});
  // a.out = down(act(up(norm(x)))) (+ `sum`), a partial sum.
  void mlp(const PlainLayer& layer, Activations& a, Activation activation, const Tensor& sum = {});
  // a.out is completed over the ranks; the next norm adds it to the stream.
  void complete(Activations& a) const {
    reduce(a.out);
    a.pending = a.out;
  }
  Tensor end(Activations& a, const BatchView& batch);  // what forward() returns

  std::vector<PlainLayer> layers_;  // of this stage
  Norm final_norm_;
};

// The same with rotary positions that do not vary with the length of a sequence.
class RotaryPlainDecoder : public PlainDecoder {
 protected:
  RotaryPlainDecoder(LoadContext& context, const DecoderSizes& sizes, const RopeConfig& rope)
      : PlainDecoder(context, sizes) {
    rope_.config = rope;
  }
  size_t table_bytes(int64_t positions) const override { return rope_.bytes(positions); }
  void allocate_tables(int64_t positions) override { rope_.allocate(backend_, positions); }

  RopeTable rope_;
};

}  // namespace sluice
