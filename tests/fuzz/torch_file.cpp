// SPDX-License-Identifier: Apache-2.0
// A file of torch.save, in either format: what is accepted lies within the file.
#include "weights/torch_file.h"

#include "fuzz/fuzz.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Folder folder;
  const auto path = folder.write("pytorch_model.bin", fuzz::text_of(data, size));
  fuzz::accepts([&] {
    const File file = File::open_read(path);
    for (TorchEntry& entry : read_torch_file(whole_file(file))) {
      const CheckpointTensor tensor = torch_tensor(entry, 0, "fuzz");
      fuzz::demand(tensor.bytes == 0 || tensor.offset + tensor.bytes <= size, "a tensor beyond its file");
    }
  });
  return 0;
}
