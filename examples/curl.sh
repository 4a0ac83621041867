#!/bin/sh
# Streams an answer from an endpoint: curl.sh [BASE_URL] [MODEL] [QUESTION]
# OPENAI_API_KEY has the key of a service with `auth`.
set -eu
base_url=${1:-http://127.0.0.1:8000/v1}
model=${2:-helmsman}
question=$(printf %s "${3:-What is a Pod?}" | sed 's/[\\"]/\\&/g')

curl --fail-with-body --no-buffer --silent --show-error "$base_url/chat/completions" \
  --header 'Content-Type: application/json' \
  --header "Authorization: Bearer ${OPENAI_API_KEY:-none}" \
  --data "{\"model\": \"$model\", \"stream\": true,
           \"messages\": [{\"role\": \"user\", \"content\": \"$question\"}]}"
