"""Names of the Prometheus metrics: the runtime writes them, dashboards and autoscalers read them.

Own names carry base units; the aliases are vLLM's names for the same figures, so that dashboards,
KEDA triggers and gateways made for vLLM work unchanged.
"""

REQUESTS_RUNNING = "aweigh_requests_running"
REQUESTS_WAITING = "aweigh_requests_waiting"
REQUESTS = "aweigh_requests_total"  # label finish_reason
TURNED_AWAY = "aweigh_requests_turned_away_total"  # with 429: the queue is full
PROMPT_TOKENS = "aweigh_prompt_tokens_total"
GENERATED_TOKENS = "aweigh_generated_tokens_total"
TIME_TO_FIRST_TOKEN = "aweigh_time_to_first_token_seconds"
INTER_TOKEN_LATENCY = "aweigh_inter_token_latency_seconds"
REQUEST_LATENCY = "aweigh_request_latency_seconds"
STEP_DURATION = "aweigh_step_duration_seconds"
STEP_TOKENS = "aweigh_step_tokens"  # of one forward pass

KV_CACHE_USAGE = "aweigh_kv_cache_usage_ratio"  # held by running requests, 0 to 1
PREFIX_CACHE_QUERIES = "aweigh_prefix_cache_queried_tokens_total"
PREFIX_CACHE_HITS = "aweigh_prefix_cache_hit_tokens_total"
PREFIX_CACHE_EVICTIONS = "aweigh_prefix_cache_evicted_blocks_total"
HOST_STORED_BLOCKS = "aweigh_prefix_cache_host_stored_blocks_total"
HOST_LOADED_BLOCKS = "aweigh_prefix_cache_host_loaded_blocks_total"
CACHED_PROMPT_TOKENS = "aweigh_cached_prompt_tokens_total"
PREEMPTIONS = "aweigh_preemptions_total"

DRAFTS = "aweigh_drafts_total"
DRAFTED_TOKENS = "aweigh_drafted_tokens_total"
DRAFTED_TOKENS_AT = "aweigh_drafted_tokens_per_position_total"  # label position, from 0
ACCEPTED_TOKENS = "aweigh_accepted_tokens_total"
ACCEPTED_TOKENS_AT = "aweigh_accepted_tokens_per_position_total"  # likewise
SPECULATION = "aweigh_speculation_state"  # label state: 1 for the one that it is in

QUEUE_TIME = "aweigh_request_queue_time_seconds"  # from arrival to the first step
PREFILL_TIME = "aweigh_request_prefill_time_seconds"  # from there to the first token
DECODE_TIME = "aweigh_request_decode_time_seconds"  # from there to the last token
INFERENCE_TIME = "aweigh_request_inference_time_seconds"  # both
TIME_PER_OUTPUT_TOKEN = "aweigh_request_time_per_output_token_seconds"  # mean of one answer
REQUEST_PROMPT_TOKENS = "aweigh_request_prompt_tokens"
REQUEST_GENERATED_TOKENS = "aweigh_request_generated_tokens"

VLLM_ALIASES = {
    REQUESTS_RUNNING: "vllm:num_requests_running",
    REQUESTS_WAITING: "vllm:num_requests_waiting",
    REQUESTS: "vllm:request_success_total",
    PROMPT_TOKENS: "vllm:prompt_tokens_total",
    GENERATED_TOKENS: "vllm:generation_tokens_total",
    TIME_TO_FIRST_TOKEN: "vllm:time_to_first_token_seconds",
    INTER_TOKEN_LATENCY: "vllm:inter_token_latency_seconds",
    REQUEST_LATENCY: "vllm:e2e_request_latency_seconds",
    STEP_TOKENS: "vllm:iteration_tokens_total",
    KV_CACHE_USAGE: "vllm:kv_cache_usage_perc",
    PREFIX_CACHE_QUERIES: "vllm:prefix_cache_queries_total",
    PREFIX_CACHE_HITS: "vllm:prefix_cache_hits_total",
    CACHED_PROMPT_TOKENS: "vllm:prompt_tokens_cached_total",
    PREEMPTIONS: "vllm:num_preemptions_total",
    DRAFTS: "vllm:spec_decode_num_drafts_total",
    DRAFTED_TOKENS: "vllm:spec_decode_num_draft_tokens_total",
    ACCEPTED_TOKENS: "vllm:spec_decode_num_accepted_tokens_total",
    ACCEPTED_TOKENS_AT: "vllm:spec_decode_num_accepted_tokens_per_pos_total",
    QUEUE_TIME: "vllm:request_queue_time_seconds",
    PREFILL_TIME: "vllm:request_prefill_time_seconds",
    DECODE_TIME: "vllm:request_decode_time_seconds",
    INFERENCE_TIME: "vllm:request_inference_time_seconds",
    TIME_PER_OUTPUT_TOKEN: "vllm:request_time_per_output_token_seconds",
    REQUEST_PROMPT_TOKENS: "vllm:request_prompt_tokens",
    REQUEST_GENERATED_TOKENS: "vllm:request_generation_tokens",
}
MODEL_LABEL = "model_name"
