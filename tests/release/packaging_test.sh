#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The recipes of packaging/ as far as a machine without Apptainer, Spack and EasyBuild can hold them: they parse, and what they name exists.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

packaging::fail() {
  echo "FAILED $*"
  exit 1
}

# Apptainer: the scripts of its sections are bash, and the files they call are in the tree.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
awk -v to="$work" '/^%/ { n++; name = substr($1, 2) } /^(Bootstrap|%)/ { next } n { sub(/^    /, ""); print > (to "/" n "-" name) }' packaging/sluice.def
for section in "$work"/*-post "$work"/*-runscript "$work"/*-test "$work"/*-environment; do
  sed -E 's/\{\{ *preset *\}\}/cpu/g; s/\{\{ *base *\}\}/debian:12/g' "$section" >"$section.sh"
  bash -n "$section.sh" || packaging::fail "packaging/sluice.def: ${section##*/}"
done
grep -q 'verify-release.sh' "$work"/*-post.sh || packaging::fail "the image's release is not verified"
(
  # shellcheck source=scripts/lib.sh
  source scripts/lib.sh
  ((${#SLUICE_BUILD_PACKAGES[@]} > 10))
) || packaging::fail "scripts/lib.sh no longer lists what an image installs"

# Spack and EasyBuild: Python that parses, every library of deps.lock named, the version of the project.
version=$(sed -nE 's/^project\(sluice VERSION ([0-9.]+).*/\1/p' CMakeLists.txt)
grep -q '"name": "cpu"' CMakePresets.json || packaging::fail "no preset cpu"
python3 - "$version" <<'PY' || packaging::fail "the recipes"
import ast, pathlib, re, sys
version = sys.argv[1]
spack = pathlib.Path("packaging/spack/package.py").read_text()
ast.parse(spack)
assert f'version("{version}")' in spack, "Spack's version"
names = [line.split()[0] for line in pathlib.Path("deps.lock").read_text().splitlines() if line and line[0] != "#"]
missing = [name for name in names if f'depends_on("{name}@' not in spack]
assert not missing, f"Spack does not name {missing}"
recipe, = pathlib.Path("packaging/easybuild").glob("*.eb")
values = {}
exec(compile(recipe.read_text(), recipe, "exec"), values)
assert values["version"] == version and recipe.name.startswith(f"Sluice-{version}-gompi-")
for path in ("scripts/deps.sh", "slurm/serve.sh", "env"):
    assert pathlib.Path(path).exists(), path
for option in re.findall(r"-D(SLUICE_\w+)", values["configopts"]):
    assert option in pathlib.Path("CMakeLists.txt").read_text(), option
PY
echo "packaging: the recipes parse and name what there is"
