// SPDX-License-Identifier: Apache-2.0
#include "app/settings_table.h"

namespace sluice {

// clang-format off
const std::vector<SettingRow>& settings_table() {
  static const std::vector<SettingRow> rows = {
      {Topic::kModel, {"model", {"SLUICE_MODEL", "MODEL_ID"}, "", "Checkpoint folder in Hugging Face layout, a downloaded model's name (ORG/NAME), or 'null': fixed tokens without compute ('null:50': 50 steps a second)."}},
      {Topic::kModel, {"random-init", {"SLUICE_RANDOM_INIT"}, "", "Named shape filled with random weights instead of a checkpoint."}},
      {Topic::kModel, {"tokenizer", {"SLUICE_TOKENIZER", "TOKENIZER"}, "", "Folder with tokenizer.json; default: the model's, or bytes with --random-init."}},
      {Topic::kModel, {"chat-template", {"SLUICE_CHAT_TEMPLATE", "CHAT_TEMPLATE"}, "", "Chat template in place of the model's: a Jinja file, or alpaca, chatml, falcon, gemma, llama2, llama3, mistral, phi3, vicuna, zephyr."}},
      {Topic::kModel, {"dtype", {"SLUICE_DTYPE", "DTYPE"}, "auto", "Weights as float32 (f32), bfloat16 (bf16), float16 (f16), or auto for the checkpoint's own.", OneOf{"auto", "float32", "bfloat16", "float16", "f32", "bf16", "f16"}}},
      {Topic::kModel, {"quantize", {"SLUICE_QUANTIZE", "QUANTIZE"}, "", "Round products while loading: int8 (bitsandbytes is another name for it) or int4; gptq and awq checkpoints need no setting.", OneOf{"int8", "int4", "bitsandbytes", "none", "gptq", "awq"}}},
      {Topic::kModel, {"revision", {"SLUICE_REVISION", "REVISION"}, "", "Branch, tag or commit of a downloaded model; default: main."}},
      {Topic::kRun, {"tp", {"SLUICE_TP", "TP", "NUM_SHARD"}, "", "Tensor-parallel ranks; default: as many as fit inside the hosts.", WholeNumber{1, 4096}}},
      {Topic::kRun, {"pp", {"SLUICE_PP", "PP"}, "", "Pipeline stages; default: tasks / tp.", WholeNumber{1, 4096}}},
      {Topic::kRun, {"tp-across-hosts", {"SLUICE_TP_ACROSS_HOSTS", "TP_ACROSS_HOSTS"}, "false", "Let a tensor-parallel group span hosts.", YesOrNo{}}},
      {Topic::kRun, {"device", {"SLUICE_DEVICE"}, "auto", "cpu, cuda, or auto: GPUs where every rank has one.", OneOf{"auto", "cpu", "cuda"}}},
      {Topic::kRun, {"gpu-memory-utilization", {"SLUICE_GPU_MEMORY_UTILIZATION", "CUDA_MEMORY_FRACTION"}, "0.9", "Share of a GPU's memory that weights, cache and scratch may fill.", RealNumber{0.01, 1}}},
      {Topic::kRun, {"deterministic", {"SLUICE_DETERMINISTIC"}, "false", "On GPUs: a request's result does not depend on what runs beside it, at some cost. CPUs always do so.", YesOrNo{}}},
      {Topic::kRun, {"all-reduce", {"SLUICE_ALL_REDUCE"}, "auto", "Sums over the GPUs of a host: peer (own kernel over CUDA IPC for small messages, else it fails), nccl, or auto: peer where it works.", OneOf{"auto", "nccl", "peer"}}},
      {Topic::kRun, {"comm", {"SLUICE_COMM"}, "auto", "How ranks on CPUs sum: mpi, tcp, or auto: MPI where its launcher started them and it works.", OneOf{"auto", "mpi", "tcp"}}},
      {Topic::kRun, {"rendezvous", {"SLUICE_RENDEZVOUS"}, "", "HOST:PORT where the ranks meet, instead of the one derived from the job."}},
      {Topic::kRun, {"formation-timeout", {"SLUICE_FORMATION_TIMEOUT"}, "60", "Seconds until missing ranks are named and the start fails; twice as long for NCCL.", RealNumber{1, 3600}}},
      {Topic::kRun, {"threads", {"SLUICE_THREADS"}, "0", "Compute threads of a rank; 0: its CPUs, shared evenly by the ranks of the host.", WholeNumber{0, 4096}}},
      {Topic::kRun, {"cpu-isa", {"SLUICE_CPU_ISA"}, "auto", "Widest CPU instructions to use: auto or avx2.", OneOf{"auto", "avx2"}}},
      {Topic::kRun, {"experts", {"SLUICE_EXPERTS"}, "auto", "Experts over tensor-parallel ranks: split, spread whole, or auto: spread where shares would be narrow.", OneOf{"auto", "split", "spread"}}},
      {Topic::kRun, {"load-threads", {"SLUICE_LOAD_THREADS"}, "0", "Threads that read the checkpoint; 0: as many as the rank has CPUs, 4 to 16.", WholeNumber{0, 64}}},
      {Topic::kRun, {"max-batch-size", {"SLUICE_MAX_BATCH_SIZE", "MAX_BATCH_SIZE"}, "64", "Sequences that run at once.", WholeNumber{1, 1 << 16}}},
      {Topic::kRun, {"max-batch-prefill-tokens", {"SLUICE_MAX_BATCH_PREFILL_TOKENS", "MAX_BATCH_PREFILL_TOKENS"}, "512", "Token budget of one step, prefill and decode together.", WholeNumber{1, 1 << 20}}},
      {Topic::kRun, {"max-batch-total-tokens", {"SLUICE_MAX_BATCH_TOTAL_TOKENS", "MAX_BATCH_TOTAL_TOKENS"}, "", "Tokens that the cache holds; default: what --max-batch-size full contexts need, at most a share of free memory (GPU: all of its share).", WholeNumber{2, int64_t{1} << 40}}},
      {Topic::kRun, {"max-total-tokens", {"SLUICE_MAX_TOTAL_TOKENS", "MAX_TOTAL_TOKENS"}, "", "Prompt plus answer of one request; default: the model's context.", WholeNumber{2, int64_t{1} << 40}}},
      {Topic::kRun, {"block-size", {"SLUICE_BLOCK_SIZE"}, "16", "Tokens of one cache block, a multiple of 16.", WholeNumber{16, 1024}}},
      {Topic::kRun, {"prefix-cache", {"SLUICE_PREFIX_CACHE"}, "true", "Reuse the cache of prompts that begin alike.", YesOrNo{}}},
      {Topic::kRun, {"seed", {"SLUICE_SEED", "SEED"}, "", "What seeds of requests without one derive from; default: random, and 0 offline.", WholeNumber{0, INT64_MAX}}},
      {Topic::kRun, {"log-level", {"SLUICE_LOG_LEVEL", "LOG_LEVEL"}, "info", "debug, info, warning, error or off.", OneOf{"debug", "info", "warning", "error", "off"}}},
      {Topic::kServer, {"host", {"SLUICE_HOST"}, "0.0.0.0", "Address to listen on: 0.0.0.0, 127.0.0.1, or unix:/path/of.sock, a socket that you alone can open."}},
      {Topic::kServer, {"port", {"SLUICE_PORT", "PORT"}, "", "Port; default: 10000 + last four digits of the job id, or 3000, and then the next free one.", WholeNumber{1, 65535}}},
      {Topic::kServer, {"auth", {"SLUICE_AUTH", "AUTH"}, "key", "key: routes ask for the job's key; none: they do not.", OneOf{"key", "none"}}},
      {Topic::kServer, {"served-model-name", {"SLUICE_SERVED_MODEL_NAME", "SERVED_MODEL_NAME"}, "", "Name in answers, and after commas further names that requests may use; default: the model as given."}},
      {Topic::kServer, {"cors-allow-origin", {"SLUICE_CORS_ALLOW_ORIGIN", "CORS_ALLOW_ORIGIN"}, "local", "Pages that may call this server from a browser, separated by commas: origins, local (localhost on any port) or *."}},
      {Topic::kServer, {"allowed-hosts", {"SLUICE_ALLOWED_HOSTS", "ALLOWED_HOSTS"}, "", "With --auth none: further names that requests may use for this server, separated by commas, or *."}},
      {Topic::kServer, {"max-concurrent-requests", {"SLUICE_MAX_CONCURRENT_REQUESTS", "MAX_CONCURRENT_REQUESTS"}, "1024", "Requests accepted and not yet finished; more are refused as overloaded.", WholeNumber{1, 1 << 20}}},
      {Topic::kServer, {"max-best-of", {"SLUICE_MAX_BEST_OF", "MAX_BEST_OF"}, "2", "Largest best_of and n.", WholeNumber{1, 1024}}},
      {Topic::kServer, {"max-stop-sequences", {"SLUICE_MAX_STOP_SEQUENCES", "MAX_STOP_SEQUENCES"}, "4", "Stop strings of one request.", WholeNumber{0, 1024}}},
      {Topic::kServer, {"max-top-n-tokens", {"SLUICE_MAX_TOP_N_TOKENS", "MAX_TOP_N_TOKENS"}, "5", "Largest top_n_tokens.", WholeNumber{0, kMaxTopLogprobs}}},
      {Topic::kServer, {"watermark-gamma", {"SLUICE_WATERMARK_GAMMA", "WATERMARK_GAMMA"}, "0.5", "Share of the vocabulary that watermarks favour.", RealNumber{0.01, 0.99}}},
      {Topic::kServer, {"watermark-delta", {"SLUICE_WATERMARK_DELTA", "WATERMARK_DELTA"}, "2", "How much watermarks add to the scores of that share.", RealNumber{-100, 100}}},
      {Topic::kServer, {"max-input-tokens", {"SLUICE_MAX_INPUT_TOKENS", "MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH"}, "", "Prompt tokens of one request; default: --max-total-tokens less one.", WholeNumber{1, int64_t{1} << 40}}},
      {Topic::kServer, {"payload-limit", {"SLUICE_PAYLOAD_LIMIT", "PAYLOAD_LIMIT"}, "2000000", "Bytes of one request body.", WholeNumber{1, int64_t{1} << 40}}},
      {Topic::kServer, {"request-log", {"SLUICE_REQUEST_LOG", "REQUEST_LOG"}, "", "File that gets one JSON line per request, or - for standard error; default: none."}},
      {Topic::kServer, {"log-prompts", {"SLUICE_LOG_PROMPTS", "LOG_PROMPTS"}, "false", "Put prompts into the request log too.", YesOrNo{}}},
      {Topic::kServer, {"drain-seconds", {"SLUICE_DRAIN_SECONDS", "GRACEFUL_TERMINATION_TIMEOUT"}, "90", "Time for accepted requests to finish after TERM.", RealNumber{0, 86400}}},
      {Topic::kSampling, {"max-new-tokens", {"SLUICE_MAX_NEW_TOKENS", "MAX_NEW_TOKENS"}, "256", "Longest answer, in tokens.", WholeNumber{1, 1 << 24}}},
      {Topic::kSampling, {"temperature", {"SLUICE_TEMPERATURE", "TEMPERATURE"}, "0", "0 picks the most likely token.", RealNumber{0, 1e6}}},
      {Topic::kSampling, {"top-k", {"SLUICE_TOP_K", "TOP_K"}, "0", "Keep the k most likely tokens; 0: all.", WholeNumber{0, 1 << 24}}},
      {Topic::kSampling, {"top-p", {"SLUICE_TOP_P", "TOP_P"}, "1", "Keep the most likely tokens up to this mass.", RealNumber{1e-6, 1}}},
      {Topic::kSampling, {"repetition-penalty", {"SLUICE_REPETITION_PENALTY", "REPETITION_PENALTY"}, "1", "Above 1 discourages tokens already seen.", RealNumber{1e-6, 1e6}}},
  };
  return rows;
}
// clang-format on

}  // namespace sluice
