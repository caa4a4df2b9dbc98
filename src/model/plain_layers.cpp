// SPDX-License-Identifier: Apache-2.0
#include "model/plain_layers.h"

namespace sluice {

void PlainDecoder::load_layers(ModuleLoader& load, const PlainNames& names, float eps) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    PlainLayer& layer = layers_[i];
    load.within(names.layer(global_layer(i)));
    load.norm(names.attention_norm, layer.attention_norm, NormKind::kLayer, eps);
    load.norm(names.mlp_norm, layer.mlp_norm, NormKind::kLayer, eps);
    load.column({names.q, names.k, names.v}, layer.qkv);
    load.row(names.o, layer.o);
    load.column({names.up}, layer.up);
    load.row(names.down, layer.down);
  }
  load.within("");
  if (groups_.last_stage()) load.norm(names.final_norm, final_norm_, NormKind::kLayer, eps);
  load.run(info_);
}

void PlainDecoder::attention(const PlainLayer& layer, size_t i, Activations& a, const BatchView& batch,
                             const AttentionShape& shape, const RopeView& rope) {
  norm(layer.attention_norm, a);
  layer.qkv(backend_, a.qkv, a.h);
  attend(a, batch, i, shape, rope);
  layer.o(backend_, groups_, a.out, a.attended);
}

void PlainDecoder::mlp(const PlainLayer& layer, Activations& a, Activation activation, const Tensor& sum) {
  norm(layer.mlp_norm, a);
  layer.up(backend_, a.ff, a.h);
  backend_.activation(a.ff, activation);
  layer.down(backend_, groups_, a.out, a.ff, sum);
}

Tensor PlainDecoder::end(Activations& a, const BatchView& batch) {
  if (!finish(a, batch)) return no_logits();
  final_norm_(backend_, a.last_norm, a.last);
  return logits(a.last_norm);
}

}  // namespace sluice
