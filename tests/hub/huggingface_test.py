# SPDX-License-Identifier: Apache-2.0
"""One cache, two programs: what sluice downloads huggingface_hub finds, and the other way round."""
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from hub_server import Hub, Repo  # noqa: E402

binary = sys.argv[1]
repo = Repo({"config.json": b"{}", "model.safetensors": b"x" * 100_000, "tokenizer.json": b"[]"})
with Hub({"org/model": repo, "org/other": Repo({"config.json": b"{ }", "model.safetensors": b"y" * 100_000})}) as hub, \
        tempfile.TemporaryDirectory() as home:
    env = {**os.environ, "HF_HOME": home, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "no_proxy": "*"}
    os.environ.update(env)
    import huggingface_hub

    subprocess.run([binary, "download", "org/model"], env=env, check=True, stdout=subprocess.PIPE)
    sent = hub.sent
    folder = huggingface_hub.snapshot_download("org/model", allow_patterns=["*.json", "*.safetensors"])
    assert hub.sent == sent, "huggingface_hub fetched again what sluice had downloaded"
    assert folder == huggingface_hub.snapshot_download("org/model", local_files_only=True)
    assert pathlib.Path(folder, "model.safetensors").read_bytes() == b"x" * 100_000

    huggingface_hub.snapshot_download("org/other")
    sent = hub.sent
    out = subprocess.run([binary, "download", "org/other"], env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    assert hub.sent == sent, "sluice fetched again what huggingface_hub had downloaded"
    assert pathlib.Path(out, "model.safetensors").read_bytes() == b"y" * 100_000
    subprocess.run([binary, "verify", "org/other"], env=env, check=True)
    cache = huggingface_hub.scan_cache_dir(pathlib.Path(home, "hub"))
    assert {r.repo_id for r in cache.repos} == {"org/model", "org/other"} and not cache.warnings, cache.warnings
print("1 passed, 0 failed")
