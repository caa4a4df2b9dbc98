// SPDX-License-Identifier: Apache-2.0
// A .nemo archive: tar, model_config.yaml, and the weights of ranks.
#include "weights/nemo.h"

#include "fuzz/fuzz.h"
#include "weights/tar.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const bool packed = size >= 2 && data[0] == 0x1f && data[1] == 0x8b;
  static int packed_left = 40;  // unpacked files stay open for the process's life
  if (packed && packed_left-- <= 0) return 0;
  static const fuzz::Folder folder;
  const auto path = folder.write("model.nemo", fuzz::text_of(data, size));
  fuzz::accepts([&] {
    const File file = open_tar(path);
    for (const TarMember& member : read_tar({&file, 0, file.size(), "fuzz"})) {
      fuzz::demand(member.offset + member.bytes <= file.size(), "a member beyond its archive");
      fuzz::demand(member.name.find("..") == std::string::npos || !member.name.starts_with("../"), "a member outside");
    }
  });
  fuzz::accepts([&] { fuzz::demand(!nemo_config(path).empty(), "a config of nothing"); });
  fuzz::accepts([&] { nemo_tokenizer_files(path); });
  return 0;
}
