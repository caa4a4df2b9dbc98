# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Uses the release in WORK/elsewhere/copy with the model in WORK/model; run by copy_test.sh. Usage: copied.sh WORK [HIDDEN_FOLDER]
folder=$1 hidden=${2:-}
source "$folder/lib.sh"
copy=$folder/elsewhere/copy
[[ -z $hidden || -z $(ls -A "$hidden") ]] || fail "$hidden is not hidden"
while read -r name; do unset "$name"; done < <(compgen -e | grep -E '^(SLURM_|SLUICE_|OMPI_|PMIX_|PMI_|RELEASE_DIR$|MODEL_ID$|PORT$|AUTH$)')
export SLUICE_HOME=$work/home SLUICE_THREADS=1

# Everything mapped must be of the copy or of the system.
mapped() {
  local odd
  grep -q "$copy/bin/sluice" "/proc/$1/maps" || fail "process $1 does not run the copy"
  odd=$(awk '$6 ~ /\.so/ {print $6}' "/proc/$1/maps" | sort -u | grep -vE "^($copy/lib/|/(usr/)?lib(64)?/)")
  [[ -z $odd ]] || fail "loaded from neither the copy nor the system: $odd"
  for library in "$copy"/lib/*.so*; do
    odd=$(awk '{print $6}' "/proc/$1/maps" | sort -u | grep -E "/${library##*/}$" | grep -v "^$copy/")
    [[ -z $odd ]] || fail "bundled, but loaded from elsewhere: $odd"
  done
}

: >"$work/serve.log"
MODEL_ID=$folder/model bash "$copy/slurm/serve.sh" >"$work/serve.log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server"; rm -rf "$work"' EXIT
for ((tenths = 600; tenths > 0; tenths--)); do
  start=$(grep -m1 '^{"event":"start"' "$work/serve.log") && break
  kill -0 "$server" 2>/dev/null || break
  sleep 0.1
done
[[ -n ${start:-} ]] || {
  cp "$work/serve.log" "$log"
  fail "the copy does not serve"
}
[[ $start =~ \"port\":([0-9]+) ]] || fail "no port in: $start"
port=${BASH_REMATCH[1]}
[[ $start =~ \"key_file\":\"([^\"]+)\" ]] || fail "no key file in: $start"
key=$(<"${BASH_REMATCH[1]}")
runs 0 curl -sS --fail-with-body -m 60 "http://127.0.0.1:$port/v1/chat/completions" -H "Authorization: Bearer $key" -H 'Content-Type: application/json' \
  -d '{"messages":[{"role":"user","content":"What is the capital of France?"}],"max_tokens":40,"temperature":0}'
says Paris
mapped "$server"
kill -TERM "$server"
wait "$server" || {
  cp "$work/serve.log" "$log"
  fail "the server did not end cleanly"
}
ok "the copy serves from its own libraries and answers a question"

if command -v mpirun >/dev/null && [[ -f $copy/lib/sluice/sluice_mpi.so ]]; then
  for i in 1 2 3 4 5 6; do printf '{"messages":[{"role":"user","content":"What is %d plus 2?"}]}\n' "$i"; done >"$work/in.jsonl"
  arguments=(generate --model "$folder/model" --prompts "$work/in.jsonl" --max-new-tokens 30)
  root=()
  ((EUID != 0)) || root=(--allow-run-as-root)
  runs 0 "$copy/bin/sluice" "${arguments[@]}" --output "$work/one.jsonl"
  runs 0 mpirun -n 2 --oversubscribe "${root[@]}" "$copy/bin/sluice" "${arguments[@]}" --output "$work/two.jsonl" --tp 2
  (($(wc -l <"$work/two.jsonl") == 6)) || fail "expected six answers"
  [[ $(grep -oE '"text":"[^"]*"' "$work/one.jsonl") == "$(grep -oE '"text":"[^"]*"' "$work/two.jsonl")" ]] || fail "two ranks answer differently"
  ok "two ranks under mpirun answer as one"
else
  echo "SKIPPED: no mpirun or no MPI module, so several ranks are not tested"
fi
done_testing
